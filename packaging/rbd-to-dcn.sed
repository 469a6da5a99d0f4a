# Changes the stores in Ceph of an OpenStackControlPlane to type dcn:
#
#   sed -E -i -f packaging/rbd-to-dcn.sed control-plane.yaml
#
# All else stays, users and keys too. Each list of stores gets what goes with
# it: copy-image, which the glance-operator does not enable unless it is told,
# and conversion, which it enables for stores of type rbd alone.

# The hold space has what is known of the configuration at hand.
/^ *\[DEFAULT\]/ { x; s/.*//; x }
/^ *enabled_import_methods *=/ { x; s/$/methods/; x }
/^ *enabled_backends *=/ {
    s/:rbd\b/:dcn/g
    /:dcn/ {
        x
        /methods/ ! {
            x
            s/^( *).*/\1enabled_import_methods = [web-download,glance-direct,copy-image]\n&/
            x
        }
        s/.*/stores/
        x
    }
}
/^ *\[glance_store\] *$/ {
    x
    /stores/ {
        s/.*//
        x
        s/^( *).*/\1[image_import_opts]\n\1image_import_plugins = [dcn_distributed_staging,dcn_image_conversion]\n\1[image_conversion]\n\1output_format = raw\n&/
        x
    }
    x
}
