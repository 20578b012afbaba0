#!/bin/sh
# A tenant is a server of its own: its administrator is root in it, with files, users and limits of its own.
set -eu
tenantd add-tenant acme --address 192.168.1.1/24 --tunnel ipip:198.51.100.2 --limit memory=256M --limit processes=200
tenantd exec acme -- sh -ec 'id -un; hostname; useradd --create-home kim; su kim -c "id -un"'
# A standard server as its package has it; its pages are files that root of acme writes.
tenantd add-service acme web --template nginx
tenantd exec acme -- sh -ec 'echo written by root of acme >/var/www/html/index.html'
tenantd exec acme -- curl -sS http://192.168.1.1/
# From inside its administrator asks for what root there cannot do itself: an address, a service that is kept running.
tenantd exec acme -- tenantd add-address acme 192.168.1.2/24
tenantd exec acme -- tenantd add-service acme clock -- sh -c 'while :; do date; sleep 1; done'
tenantd exec acme -- curl -sS http://192.168.1.2/
# Limits change while it runs; files stay when it is started again.
tenantd set-limits acme memory=512M
tenantd restart-tenant acme
tenantd exec acme -- sh -ec 'cat /var/www/html/index.html; id kim'
tenantd remove-tenant acme --force
