# Changes the stores in Ceph of an OpenStackControlPlane to type dcn:
#
#   sed -E -i -f packaging/rbd-to-dcn.sed control-plane.yaml
#
# All else stays, users and keys too. Each list of stores gets what goes with
# it: copy-image, which the glance-operator does not enable unless it is told,
# and conversion, which it enables for stores of type rbd alone. What a
# customServiceConfig, or value of a patch, says of these itself stays. Run
# again, it changes nothing.

:start
/^ *(customServiceConfig|value): *\|/ {
    # All lines that are indented deeper, and blank ones.
    :more
    $ b block
    N
    /^( *)(customServiceConfig|value):.*\n(\1 [^\n]*| *)$/ b more
    # The last one is beyond it, and may begin the next.
    h
    s/.*\n//
    x
    s/\n[^\n]*$//
    b change
    :block
    x
    s/.*//
    x
    :change
    /\n( *)enabled_backends *=[^\n]*(\n\1 [^\n]*)*:rbd\b/ {
        :type
        s/(\n( *)enabled_backends *=[^\n]*(\n\2 [^\n]*)*):rbd\b/\1:dcn/
        t type
        /\n *enabled_import_methods *=/ ! s/\n( *)enabled_backends *=/\n\1enabled_import_methods = [web-download,glance-direct,copy-image]&/
        /\n *image_import_plugins *=/ ! s/^(.*\n( *)enabled_backends *=.*[^\n ])/\1\n\2[image_import_opts]\n\2image_import_plugins = [dcn_distributed_staging,dcn_image_conversion]/
        /\n *output_format *=/ ! s/^(.*\n( *)enabled_backends *=.*[^\n ])/\1\n\2[image_conversion]\n\2output_format = raw/
    }
    x
    /./ ! {
        x
        b
    }
    x
    p
    x
    b start
}
