#!/bin/sh
# One closed network with two sites: the longest prefix of the destination chooses the tunnel.
set -eu
tenantd add-tenant acme --address 192.168.1.1/24 --address 10.1.0.1/16 \
    --tunnel ipip:198.51.100.2,prefix=192.168.1.0/24 \
    --tunnel ipip:198.51.100.6,prefix=10.1.0.0/16
tenantd show acme
tenantd map access
# A third site joins while the others go on; its prefix lies inside the second site's and is longer.
tenantd add-tunnel acme ipip:198.51.100.10,prefix=10.1.3.0/24
tenantd map access
tenantd remove-tunnel acme ipip:198.51.100.10
