# Changes the stores in Ceph of an OpenStackControlPlane to type dcn:
#
#   sed -E -i -f packaging/rbd-to-dcn.sed control-plane.yaml
#
# All else stays, users and keys too. Each list of stores gets what goes with
# it: copy-image, which the glance-operator does not enable unless it is told,
# and conversion, which it enables for stores of type rbd alone. To run it
# again changes nothing.

# The hold space tells whether import methods are chosen already; those that
# are chosen further down replace these.
/^ *\[DEFAULT\]/ { x; s/.*//; x }
/^ *enabled_import_methods *=/ { x; s/.*/methods/; x }
/^ *enabled_backends *=.*:rbd\b/ {
    s/:rbd\b/:dcn/g
    # Oslo's configuration files may come back to a section.
    s/^( *).*/&\n\1[image_import_opts]\n\1image_import_plugins = [dcn_distributed_staging,dcn_image_conversion]\n\1[image_conversion]\n\1output_format = raw\n\1[DEFAULT]/
    x
    /methods/ ! {
        x
        s/^( *).*/\1enabled_import_methods = [web-download,glance-direct,copy-image]\n&/
        x
    }
    x
}
