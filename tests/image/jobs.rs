//! Jobs that start from images.

use crate::help::{Shop, TREE};

/// Lines of the kernel about loop devices with files of this shop.
const LOOPS: &str = r#"loops() { losetup -n -O BACK-INO -a | tr -d ' ' | grep -cxF -f <(stat -c %i "$W"/var/lib/images/blobs/sha256/*) || true; }
gone() { for i in $(seq 100); do [ "$(loops)" = 0 ] && break; sleep 0.1; done; echo "loops $(loops)"; }
"#;

#[test]
fn root_starts_from_a_kernel_mount_and_leaves_nothing() {
    let Some(shop) = Shop::root("root_starts_from_a_kernel_mount_and_leaves_nothing") else {
        return;
    };
    let said = shop.see(&format!(
        r#"{TREE}{LOOPS}
        umoci init --layout oci; umoci new --image oci:a; tar -C tree -cf l.tar .; umoci raw add-layer --image oci:a l.tar
        umoci config --image oci:a --config.env FROM=image --config.entrypoint /no/such --config.workingdir /data --config.user 4242
        d image import oci img >/dev/null
        SECRET=x run --image img --id {id} -- sh -c 'cat /etc/name; echo $FROM ${{SECRET2-unset}}; stat -f -c %T /; touch /new /etc/name; id -u; pwd; exec sleep 100' >out &
        until grep -q '^/$' out; do sleep 0.05; done; cat out; echo "loops $(loops)"
        d job list | grep -c img:latest
        run --image img --id {id} -- cat /new; run --image other --id {id} -- true 2>&1 || true
        run --image img -- ls /new 2>&1 || true
        d job end {id}; wait || true; gone"#,
        id = shop.id("a"),
    ));
    for line in ["image", "image unset", "0", "/", "loops 1", "1", "loops 0"] {
        assert!(said.lines().any(|l| l == line), "{line:?} in {said}");
    }
    assert!(said.contains("not \"other:latest\""), "{said}");
    assert!(said.contains("/new: No such file"), "each environment has its own: {said}");
}

/// A digest is the manifest's; the file that is mounted is named by a note beside it.
#[test]
fn whose_digest_is_given_starts_from_no_file_that_others_name() {
    let test = "whose_digest_is_given_starts_from_no_file_that_others_name";
    let Some(shop) = Shop::root(test) else { return };
    let said = shop.see(&format!(
        r#"{TREE}
        good=$(d image import tree good --json | jq -r .manifest)
        echo evil >tree/etc/name; d image import tree evil >/dev/null
        flat=$W/var/lib/images/flat; note=$flat/sha256-${{good#sha256:}}
        file() {{ jq -r .file $flat/sha256-${{1#sha256:}}; }}
        evil=$(d image inspect evil --json | jq -r .manifest)
        named=$(jq -c --arg f "$(file $evil)" '.file = $f' $note); echo "$named" >$note
        chown 1234 $note
        echo by name $(run --image good -- cat /etc/name)
        echo by digest $(run --image good@$good -- cat /etc/name)
        echo again $(run --image good@$good -- cat /etc/name)
        stat -c 'note of %u' $note"#
    ));
    assert_eq!(said, "by name evil\nby digest image\nagain image\nnote of 0", "{said}");
}

#[test]
fn many_starts_at_once_share_one_device() {
    let Some(shop) = Shop::root("many_starts_at_once_share_one_device") else { return };
    let said = shop.see(&format!(
        r#"{TREE}{LOOPS}
        d image import tree img >/dev/null; mkfifo go; n=128
        for i in $(seq $n); do (run --image img --id {id}-$i -- sh -c 'echo in; cat /etc/name; read x <&3' 3<go >out.$i 2>&1; echo "code $?" >>out.$i) & done
        exec 4>go
        for try in $(seq 600); do [ "$(cat out.* 2>/dev/null | grep -c '^image$')" = $n ] && break; sleep 0.1; done
        echo "together $(cat out.* | grep -c '^image$') loops $(loops)"
        for i in $(seq $n); do echo >&4; done; exec 4>&-
        wait || true; cat out.* | grep -c '^code' ; gone
        cat out.* | grep -v -e '^in$' -e '^image$' -e '^code [01]$' | sort | uniq -c | head"#,
        id = shop.id("many"),
    ));
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines, ["together 128 loops 1", "128", "loops 0"], "{said}");
}

/// What nobody has asked for yet is in memory: the shell, and nothing else.
#[test]
fn what_a_start_will_read_is_read_meanwhile() {
    let Some(shop) = Shop::root("what_a_start_will_read_is_read_meanwhile") else { return };
    let said = shop.see(&format!(
        r#"{TREE}{LOOPS}
        d image import tree img >/dev/null
        d job start --image img --id {id} >/dev/null
        root=/proc/$(d job show --json {id} | jq .record.init.pid)/root
        read_of() {{ fincore --bytes --noheadings --output RES "$root/$1" | tr -d ' '; }}
        for i in $(seq 50); do [ "$(read_of bin/busybox)" -gt 100000 ] && break; sleep 0.1; done
        [ "$(read_of bin/busybox)" -gt 100000 ] && echo shell; echo "other $(read_of data/suid/id)"
        for i in $(seq 50); do grep -qsx denovo-ahead /proc/[0-9]*/comm || break; sleep 0.1; done
        grep -lsx denovo-ahead /proc/[0-9]*/comm || true
        d job end {id}; gone"#,
        id = shop.id("ahead"),
    ));
    assert_eq!(said.lines().collect::<Vec<_>>(), ["shell", "other 0", "loops 0"], "{said}");
}

#[test]
fn killed_monitors_leave_no_device() {
    let Some(shop) = Shop::root("killed_monitors_leave_no_device") else { return };
    let said = shop.see(&format!(
        r#"{TREE}{LOOPS}
        d image import tree img >/dev/null
        d job start --image img --id {id} >/dev/null; echo "loops $(loops)"
        monitor=$(d job show --json {id} | jq .record.monitor.pid); kill -9 $monitor
        # A signal takes its time, and gc leaves alone what is kept.
        while grep -q '^State:.[^ZX]' /proc/$monitor/status 2>/dev/null; do sleep 0.02; done
        d node gc; gone
        ls "$W/base/images" | wc -l"#,
        id = shop.id("killed"),
    ));
    let lines: Vec<&str> = said.lines().filter(|l| !l.starts_with("removed")).collect();
    assert_eq!(lines, ["loops 1", "loops 0", "0"], "{said}");
}

#[test]
fn the_kernel_mounts_no_file_that_a_user_can_write() {
    let Some(shop) = Shop::root("the_kernel_mounts_no_file_that_a_user_can_write") else { return };
    let said = shop.see(&format!(
        r#"{TREE}
        d image import tree img >/dev/null
        blob=$W/var/lib/images/blobs/sha256/$(d image inspect --json img | jq -r .flat.file | cut -d: -f2)
        back() {{ d job start --image img --id {id} >/dev/null 2>err || cat err; echo "$1 $(losetup -n -O BACK-INO -a | tr -d ' ' | grep -cxF "$(stat -c %i $blob)") $(stat -c '%a %u' $blob)"; d job end {id} 2>/dev/null || true; }}
        back kept
        exec 5>>$blob; back open; exec 5>&-
        chmod 666 $blob; back mode
        chown 4242 $blob; back owner
        printf x >>$blob; chown 4242 $blob; back changed"#,
        id = shop.id("writable"),
    ));
    let lines: Vec<&str> = said.lines().collect();
    // Each time a copy of root's own takes its place, unless it is another.
    for line in ["kept 1 644 0", "open 1 644 0", "mode 1 644 0", "owner 1 644 0"] {
        assert!(lines.contains(&line), "{line:?} in {said}");
    }
    assert!(said.contains("what came is something else"), "{said}");
    assert!(lines.contains(&"changed 0 644 4242"), "{said}");
}

#[test]
fn a_users_jobs_share_one_fuse_mount() {
    let Some(shop) = Shop::user("a_users_jobs_share_one_fuse_mount") else { return };
    let id = shop.id("fuse");
    let script = format!(
        r#"{TREE}
        daemons() {{ ps -u $(id -u) -o args | grep -c '^[^ ]*squashfuse_ll .*ro,nosuid' || true; }}
        d image import tree img >/dev/null
        for i in 1 2 3; do d job start --image img --id {id}-$i; done
        d job exec {id}-1 cat /etc/name; echo "daemons $(daemons) mounts $(grep -c fuse.squashfuse /proc/mounts)"
        d job end {id}-1; d job exec {id}-2 cat /etc/name; echo "daemons $(daemons)"
        kill -9 $(d job show --json {id}-2 | jq .record.monitor.pid); sleep 0.3; d node gc | sed 's/.*/gc/'
        d job exec {id}-3 cat /etc/name; d job end {id}-3
        for i in $(seq 100); do [ "$(daemons)" = 0 ] && break; sleep 0.1; done
        echo "daemons $(daemons) mounts $(grep -c fuse.squashfuse /proc/mounts) $(ls "$W/base/images" | wc -l)""#
    );
    let ran = shop.finish(shop.shell(&[("FUSE", "yes")], &script)).expect(0, &script);
    let said = ran.out();
    for line in ["daemons 1 mounts 1", "daemons 1", "gc", "daemons 0 mounts 0 0"] {
        assert!(said.lines().any(|l| l == line), "{line:?} in {said} {}", ran.err);
    }
    assert_eq!(said.matches("image\n").count(), 3, "{said}");
}

#[test]
fn where_nothing_can_be_mounted_it_is_unpacked_once() {
    let Some(shop) = Shop::user("where_nothing_can_be_mounted_it_is_unpacked_once") else { return };
    let ran = shop.run(&format!(
        r#"{TREE}
        d image import tree img >/dev/null
        for i in 1 2 3 4; do run --image img --id {id}-$i -- sh -c 'echo $(cat /etc/name; stat -c %a /data/deep); touch /etc/mine' & done; wait
        run --image img --id {id}-5 -- ls /etc
        stat -c 'kept %a %u' /var/tmp/denovo-$(id -u) /var/tmp/denovo-$(id -u)/unpacked | sed "s/ $(id -u)$/ own/" | uniq
        d job start --image img --id {id}-6
        # What a name leads to stays, and so does what an environment is made of.
        gc() {{ d image gc --all --json $([ $1 = --dry-run ] && echo $1 || true) | jq '.unpacked | length' | sed "s/^/gc $1 /"; }}
        gc named; d image remove img; gc used; d job exec {id}-6 cat /etc/name | sed 's/^/still /'
        d job end {id}-6; for i in $(seq 50); do gc --dry-run | grep -q 1 && break; sleep 0.1; done
        gc unused; ls -A /var/tmp/denovo-$(id -u)/unpacked | wc -l | sed 's/^/left /'
        rm -r /var/tmp/denovo-$(id -u)"#,
        id = shop.id("unpacked"),
    ));
    let ran = ran.expect(0, "unpacked");
    assert_eq!(ran.out().matches("image 700\n").count(), 4, "{ran:#?}");
    for line in ["kept 700 own", "gc named 0", "gc used 0", "still image", "gc unused 1", "left 0"]
    {
        assert!(ran.out().lines().any(|l| l == line), "{line:?} in {} {}", ran.out(), ran.err);
    }
    assert!(!ran.out().contains("mine"), "{}", ran.out());
    let warnings: Vec<&str> = ran.err.lines().filter(|l| l.contains("is unpacked to")).collect();
    assert_eq!(warnings.len(), 1, "{}", ran.err);
    assert!(warnings[0].contains("/dev/fuse"), "{}", ran.err);
}

#[test]
fn a_job_of_roots_for_a_user_sees_the_image_as_that_user() {
    let Some(shop) = Shop::root("a_job_of_roots_for_a_user_sees_the_image_as_that_user") else {
        return;
    };
    let said = shop.see(&format!(
        r#"{TREE}
        d image import tree img >/dev/null
        run --user 4242 --image img --id {id} -- sh -c 'id -u; cat /etc/name; ls /data/deep; /data/suid/id -u; stat -c %a /data/suid/id' 2>&1 || true"#,
        id = shop.id("for"),
    ));
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines[..2], ["4242", "image"], "{said}");
    assert!(said.contains("Permission denied"), "{said}");
    assert_eq!(lines[3], "4242", "setuid of an image gives nothing: {said}");
}

#[test]
fn explain_says_how_the_image_is_mounted() {
    let Some(shop) = Shop::root("explain_says_how_the_image_is_mounted") else { return };
    let said = shop.see(&format!(
        "{TREE}d image import tree img >/dev/null; d job explain run --image img -- true; losetup -a | grep -c \"$W\" || true"
    ));
    assert!(said.contains("mounted by the kernel through a loop device"), "{said}");
    assert!(said.ends_with("\n0"), "{said}");
    let refused = shop.run("run --image none:such -- true");
    refused.refused(&["none:such", "there is none of this name", "denovo image list"]);
}
