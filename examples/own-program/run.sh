#!/bin/sh
# Any program can be a service. It is started again when it dies, and what it prints is kept.
set -eu
tenantd add-tenant acme --address 192.168.1.1/24 --tunnel ipip:198.51.100.2
tenantd add-service acme clock -- sh -c 'while :; do date; sleep 0.1; done'
sleep 0.5
tenantd logs acme clock
tenantd restart-service acme clock
tenantd remove-service acme clock
tenantd remove-tenant acme
