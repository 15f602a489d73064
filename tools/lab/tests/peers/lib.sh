# Read before every script that runs on the Linux initiator. A script says what it does; the first thing
# that is not as it should be ends it with `FAILED`.
set -u
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C
A=10.77.0.1:3260 B=10.78.0.1:3260
CONF=/etc/iscsi/iscsid.conf

fail() {
    echo "FAILED: $*"
    echo "--- kernel"; dmesg | tail -n 25
    echo "--- sessions"; iscsiadm -m session 2>&1
    exit 1
}
ok() { echo "+ $*"; "$@" || fail "exit $? of: $*"; }
quiet() { "$@" >/tmp/quiet 2>&1 || { cat /tmp/quiet; fail "exit $? of: $*"; }; }
# ends CODE COMMAND...: the command must end with just this exit code.
ends() {
    local want=$1 code=0
    shift
    echo "+ [$want] $*"
    "$@" || code=$?
    [ $code = "$want" ] || fail "exit $code instead of $want of: $*"
}
# shows PATTERN COMMAND...: the command must succeed and show the pattern (extended, any case).
shows() {
    local pattern=$1
    shift
    "$@" >/tmp/shows 2>&1 || { cat /tmp/shows; fail "exit $? of: $*"; }
    grep -qiE -- "$pattern" /tmp/shows || { cat /tmp/shows; fail "no '$pattern' in the output of: $*"; }
}
# within SECONDS COMMAND...: asked again until it succeeds.
within() {
    local end=$((SECONDS + $1))
    shift
    until "$@" >/dev/null 2>&1; do
        [ $SECONDS -lt $end ] || fail "not in time: $*"
        sleep 0.2
    done
}
no_iscsid() { ! pidof iscsid; }
no_multipathd() { ! pidof multipathd; }
no_session() { [ -z "$(ls /sys/class/iscsi_session 2>/dev/null)" ]; }

# Everything as after a start: no load, no mounts, no maps, no sessions, no daemons, no records.
clean() {
    with_udev
    touch /tmp/stop
    pkill -9 -x 'fio|dd|sg_dd'
    umount -l /mnt 2>/dev/null
    if pidof multipathd >/dev/null; then
        pkill -x multipathd
        within 20 no_multipathd
    fi
    for map in $(dmsetup ls --target multipath 2>/dev/null | cut -f1); do
        dmsetup message "$map" 0 fail_if_no_path 2>/dev/null
        timeout 20 dmsetup remove --retry --force "$map" 2>/dev/null
    done
    if ! no_session; then
        pidof iscsid >/dev/null || iscsid
        timeout 60 iscsiadm -m session -u >/dev/null 2>&1
        within 30 no_session
    fi
    if pidof iscsid >/dev/null; then
        pkill -9 -x iscsid
        within 20 no_iscsid
    fi
    rm -rf /etc/iscsi/nodes/* /etc/iscsi/send_targets/* /tmp/busy.* /tmp/rounds /tmp/stop
    udevadm settle --timeout=60
    dmesg -C
}

# Without udev nobody else reads the disks: the dozen programs it runs for each take ten seconds on an
# emulated processor, hear unit attentions that were meant for the check, and see disks go away.
no_udevd() { ! pidof systemd-udevd; }
without_udev() {
    udevadm settle --timeout=120
    pkill -x systemd-udevd
    within 20 no_udevd
}
with_udev() { pidof systemd-udevd >/dev/null || quiet /lib/systemd/systemd-udevd --daemon; }

# settings [KEY=VALUE...]: what new records are made with. CHAP with the node's own secret.
settings() {
    cat >$CONF <<END
iscsid.startup = /bin/false
node.startup = manual
node.session.auth.authmethod = CHAP
node.session.auth.username = $NODE
node.session.auth.password = $SECRET
discovery.sendtargets.auth.authmethod = CHAP
discovery.sendtargets.auth.username = $NODE
discovery.sendtargets.auth.password = $SECRET
node.session.timeo.replacement_timeout = 120
node.conn[0].timeo.login_timeout = 30
node.conn[0].timeo.logout_timeout = 30
node.conn[0].timeo.noop_out_interval = 5
node.conn[0].timeo.noop_out_timeout = 30
node.session.initial_login_retry_max = 2
node.session.cmds_max = 128
node.session.queue_depth = 32
node.session.iscsi.InitialR2T = No
node.session.iscsi.ImmediateData = Yes
END
    local setting
    for setting in "$@"; do
        sed -i "/^${setting%%=*} =/d;/^${setting%%=*}=/d" $CONF
        [ -z "${setting#*=}" ] || echo "${setting%%=*} = ${setting#*=}" >>$CONF
    done
}

# The initiator daemon, under the node's own initiator name.
daemon() {
    echo "InitiatorName=${1:-$TARGET.initiator}" >/etc/iscsi/initiatorname.iscsi
    mkdir -p /run/lock/iscsi /var/lock/iscsi
    quiet iscsid
    within 20 test -e /proc/net/unix
}

# record PORTAL: a record of the target with the settings as they are now.
record() {
    rm -rf "/etc/iscsi/nodes/$TARGET/${1%:*},${1#*:}"*
    quiet iscsiadm -m node -o new -T "$TARGET" -p "$1"
}

by_path() { echo "/dev/disk/by-path/ip-$1-iscsi-$TARGET-lun-0"; }

# login PORTAL: logs in and waits for the disk.
login() {
    quiet iscsiadm -m node -T "$TARGET" -p "$1" --login
    within 60 test -b "$(by_path "$1")"
}
logout() { quiet iscsiadm -m node -T "$TARGET" -p "$1" --logout; }
# The kernel's name of the disk behind a portal: sda.
disk() { basename "$(readlink -f "$(by_path "$1")")"; }

# What the kernel calls it for good, by its designators: naa.6...
wwid() { tr -d '\0' <"/sys/block/$(disk "$1")/device/wwid"; }

# verified DEVICE MIB SEED: writes in pieces of many sizes, reads all back, compares.
verified() {
    fio --name=v --filename="$1" --size="$2M" --randseed="$3" --rw=randwrite --bsrange=4k-128k \
        --ioengine=libaio --iodepth=16 --direct=1 --verify=crc32c --verify_fatal=1 --do_verify=1 \
        --verify_state_save=0 --thread --minimal
}
# busy DEVICE MIB: verified writes in rounds until /tmp/stop is there; /tmp/rounds counts them.
busy() {
    rm -f /tmp/stop /tmp/busy.*
    echo 0 >/tmp/rounds
    (
        n=0
        until [ -e /tmp/stop ]; do
            n=$((n + 1))
            verified "$1" "$2" $n >/tmp/busy.log 2>&1 || { echo "round $n" >/tmp/busy.failed; exit 1; }
            echo $n >/tmp/rounds
        done
        echo clean >/tmp/busy.done
    ) </dev/null >/dev/null 2>&1 &
}
rounds_reach() { [ "$(cat /tmp/rounds)" -ge "$1" ] || [ -e /tmp/busy.failed ]; }
# still_busy SECONDS: one whole round more is written and verified from here on.
still_busy() {
    # The round that runs now began before; the one after it is whole.
    within "$1" rounds_reach $(($(cat /tmp/rounds) + 2))
    [ ! -e /tmp/busy.failed ] || { cat /tmp/busy.log; fail "fio: $(cat /tmp/busy.failed)"; }
}
busy_ended() { [ -e /tmp/busy.done ] || [ -e /tmp/busy.failed ]; }
# not_busy SECONDS: the load ends with the round it is in, and nothing of it went wrong.
not_busy() {
    touch /tmp/stop
    within "$1" busy_ended
    [ ! -e /tmp/busy.failed ] || { cat /tmp/busy.log; fail "fio: $(cat /tmp/busy.failed)"; }
    echo "load: $(cat /tmp/rounds) rounds, verified"
}
# No error has reached a disk since the check began.
no_io_errors() {
    if dmesg | grep -iE 'I/O error|Buffer I/O|critical (medium|target) error|rejecting I/O'; then
        fail "the kernel saw errors"
    fi
}
