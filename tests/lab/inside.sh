#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# What the lab's host does after each boot, as root: runs /lab/script, which may ask for another boot by exit status 194 and
# is then run again ($BOOT counts from 1). What it prints goes to /lab/output, its exit status to /lab/status.
exec >>/lab/output 2>&1
cd / || exit 1
# shellcheck source=/dev/null
. /lab/environment
BOOT=$(($(cat /lab/boots 2>/dev/null || echo 0) + 1))
export BOOT
echo "$BOOT" >/lab/boots
echo "lab: boot $BOOT of $(uname -r) on Debian $(cat /etc/debian_version), $(systemctl --version | head -n 1), up for $(cut -d' ' -f1 /proc/uptime) s"
# As it comes: of a host that hangs it is what tells why.
[ -n "${NO_JOURNAL:-}" ] || journalctl -q -b -f -n all --no-hostname -o short-monotonic >>/lab/journal &
if [ "$BOOT" -eq 1 ] || [ -e /lab/again ]; then
	rm -f /lab/again
	/lab/script
	status=$?
else
	echo "lab: the host came up again, and nobody had asked for that"
	status=1
fi
if [ "$status" -eq 194 ]; then
	touch /lab/again
	journalctl --sync
	systemctl reboot
	exit 0
fi
journalctl --sync
echo "$status" >/lab/status
sync
echo o >/proc/sysrq-trigger # the disk is thrown away: nothing needs to be stopped
