#!/bin/sh
# A customer whose network is 192.168.1.0/24 and who wants its server at 192.168.1.1, behind its gateway 198.51.100.2.
set -eu
tenantd add-tenant acme --address 192.168.1.1/24 --tunnel ipip:198.51.100.2
tenantd add-service acme web --template nginx --set body='hello from acme'
# What the customer sees, as its own processes see it:
tenantd exec acme -- curl -sS http://192.168.1.1/
echo
tenantd map
tenantd status acme
