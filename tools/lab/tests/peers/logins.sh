# Discovery and login: only the node's own name and secret, each algorithm that open-iscsi knows.
# WORKS and REFUSED name the algorithms that the head takes and does not take.
clean; settings; daemon
discover() { iscsiadm -m discovery -t st -p "$1"; }

discover $A >/tmp/found && discover $B >>/tmp/found || fail "discovery: $(cat /tmp/found)"
for portal in $A $B; do
    grep -qx "$portal,1 $TARGET" /tmp/found || { cat /tmp/found; fail "$portal did not tell its target"; }
done
[ "$(grep -c . /tmp/found)" -ge 2 ] && ! grep -v " $TARGET$" /tmp/found || fail "more was told: $(cat /tmp/found)"

# 24: refused for its secret.
settings discovery.sendtargets.auth.password=wrong-secret-here
ends 24 discover $A
settings discovery.sendtargets.auth.authmethod=None discovery.sendtargets.auth.username= \
    discovery.sendtargets.auth.password=
ends 24 discover $A
settings
pkill -9 -x iscsid; within 20 no_iscsid
daemon iqn.2026-11.internal.reveille:stranger
ends 24 discover $A
pkill -9 -x iscsid; within 20 no_iscsid
daemon

for algorithm in $WORKS; do
    settings node.session.auth.chap_algs=$algorithm
    record $A; login $A
    quiet dd if="$(by_path $A)" of=/dev/null bs=64k count=4 iflag=direct
    logout $A
    settings node.session.auth.chap_algs=$algorithm node.session.auth.password=not-the-secret-
    record $A
    ends 24 iscsiadm -m node -T "$TARGET" -p $A --login
    echo "$algorithm: the right secret and no other"
done
for algorithm in $REFUSED; do
    settings node.session.auth.chap_algs=$algorithm
    record $A
    ends 24 iscsiadm -m node -T "$TARGET" -p $A --login
done
settings node.session.auth.authmethod=None node.session.auth.username= node.session.auth.password=
record $A
ends 24 iscsiadm -m node -T "$TARGET" -p $A --login
