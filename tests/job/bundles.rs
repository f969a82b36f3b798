//! A job in the root of an image.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::help::{Place, value};

/// A bundle, and its root; nobody but its owner is to change it.
fn bundle(place: &Place) -> (PathBuf, PathBuf, String) {
    let dir = place.bundle(|config| {
        config["process"]["env"] = json!(["PATH=/image/bin:/bin", "IMAGE=yes", "NOT_A_VARIABLE"]);
    });
    // Whatever `spec` made of it, the job has its own ids.
    let text = dir.display().to_string();
    (dir.clone(), dir.join("rootfs"), text)
}

/// Names, kinds, sizes and times of everything below.
fn picture(dir: &Path) -> Vec<String> {
    let mut all = Vec::new();
    for entry in fs::read_dir(dir).unwrap().flatten() {
        let meta = entry.metadata().unwrap();
        all.push(format!(
            "{} {:?} {} {:?}",
            entry.path().display(),
            meta.file_type(),
            meta.len(),
            meta.modified()
        ));
        if meta.is_dir() {
            all.extend(picture(&entry.path()));
        }
    }
    all.sort();
    all
}

#[test]
fn an_image_is_the_root_and_stays_untouched() {
    for place in Place::each("an_image_is_the_root_and_stays_untouched") {
        let (_, root, text) = bundle(&place);
        fs::write(root.join("etc/passwd"), "root:x:0:0:root:/:/bin/sh\nalice:x:77:77::/:/bin/sh\n")
            .unwrap();
        fs::write(root.join("etc/only-here"), "image's").unwrap();
        place.give(&root.join("etc/only-here"));
        let before = picture(&root);
        let script = "cat /etc/only-here; echo; echo env $PATH $IMAGE ${NOT_A_VARIABLE-unset}
            echo changed >/etc/only-here; rm /bin/wc; mkdir /new /bin/dir; echo x >/tmp/t
            cut -d: -f1,3 /etc/passwd | tr '\\n' ' '; echo; echo id $(id -u)
            ls / | tr '\\n' ' '; echo; ls /usr 2>/dev/null; cat /etc/hostname /etc/machine-id | wc -l";
        let said =
            place.see(&["--bundle", &text, "--hostname", "img", "--no-home", "--cwd", "/"], script);
        assert_eq!(value(&said, "env"), "/image/bin:/bin yes unset");
        assert!(said.starts_with("image's\n"), "{said}");
        let accounts = said.lines().find(|l| l.starts_with("root:0 alice:77 ")).unwrap();
        let uid = place.uid().to_string();
        // The user's own account beside the image's, by whatever name it has.
        let own = accounts.split(' ').filter(|account| account.ends_with(&format!(":{uid}")));
        assert_eq!(own.count(), 1, "{said}");
        assert_eq!(value(&said, "id"), uid);
        assert_eq!(picture(&root), before, "the image is as it was");
        // The next finds it fresh.
        let options = ["--bundle", &text[..], "--cwd", "/"];
        assert_eq!(
            place.see(
                &options,
                "cat /etc/only-here; ls -d /new /bin/dir 2>/dev/null; ls /tmp | grep -v dnt; true"
            ),
            "image's"
        );
    }
}

#[test]
fn home_and_bundle_name_work_with_an_image() {
    for place in Place::each("home_and_bundle_name_work_with_an_image") {
        let (dir, _, text) = bundle(&place);
        let home = place.home();
        assert_eq!(
            place.see(&["--bundle", &text], "pwd; echo kept >in-home"),
            home.display().to_string()
        );
        assert_eq!(fs::read_to_string(home.join("in-home")).unwrap(), "kept\n");
        // By name, from the user's own directory of bundles.
        let bundles = home.join(".local/share/denovo/bundles");
        fs::create_dir_all(&bundles).unwrap();
        symlink(&dir, bundles.join("small")).unwrap();
        let mut command = place.running(&["--bundle", "small"], "echo $IMAGE");
        command.env_remove("XDG_DATA_HOME");
        assert_eq!(place.finish(command).expect(0, "by name").out(), "yes");
        // The node's own paths are nothing for an image's programs.
        let mut command =
            place.running(&["--bundle", &text], "echo ${LD_LIBRARY_PATH-unset} $OTHER");
        command.env("LD_LIBRARY_PATH", "/node/lib").env("OTHER", "1");
        assert_eq!(place.finish(command).expect(0, "env").out(), "unset 1");
    }
}

#[test]
fn hostile_account_files_do_no_harm() {
    for place in Place::each("hostile_account_files_do_no_harm") {
        let canary = place.file("canary", "root:x:0:0:canary:/:/bin/sh\n");
        for kind in ["link", "dangling", "fifo", "device", "directory", "etc"] {
            let (_, root, text) = bundle(&place);
            let passwd = root.join("etc/passwd");
            match kind {
                "link" => symlink(&canary, &passwd).unwrap(),
                "dangling" => symlink(place.dir.join("made-outside"), &passwd).unwrap(),
                "fifo" => nix::unistd::mkfifo(&passwd, nix::sys::stat::Mode::S_IRWXU).unwrap(),
                "device" => symlink("/dev/zero", &passwd).unwrap(),
                "directory" => fs::create_dir(&passwd).unwrap(),
                _ => {
                    fs::remove_dir(root.join("etc")).unwrap();
                    symlink(place.dir.join("outside"), root.join("etc")).unwrap();
                    place.directory("outside");
                }
            }
            let ran = place.run(
                &["--bundle", &text, "--cwd", "/"],
                "echo in; grep -c canary /etc/passwd; test ! -p /etc/passwd",
            );
            // Either it runs with account files of its own, or says in one
            // line what is wrong; it never waits, reads or writes outside.
            if ran.code() == 125 {
                let told = ran.err.lines().filter(|l| l.starts_with("denovo: ")).count();
                assert!(told == 1 && ran.out.is_empty(), "{kind}: {ran:?}");
            } else {
                assert_eq!(ran.out(), "in\n0", "{kind}: {ran:?}");
            }
            assert_eq!(fs::read_to_string(&canary).unwrap(), "root:x:0:0:canary:/:/bin/sh\n");
            assert!(!place.dir.join("made-outside").exists(), "{kind}");
            let outside = place.dir.join("outside");
            assert!(!outside.exists() || fs::read_dir(outside).unwrap().count() == 0, "{kind}");
            assert_eq!(place.remains(), Vec::<String>::new(), "{kind}");
        }
    }
}

#[test]
fn an_image_with_links_for_its_directories_stays_inside() {
    let test = "an_image_with_links_for_its_directories_stays_inside";
    for place in Place::each(test) {
        for name in ["tmp", "dev", "run", "sys", "var", "proc"] {
            let (_, root, text) = bundle(&place);
            let target = place.directory("canary");
            let _ = fs::remove_dir(root.join(name));
            symlink(&target, root.join(name)).unwrap();
            let ran = place.run(&["--bundle", &text, "--cwd", "/"], "echo in");
            assert!(ran.code() == 0 || ran.code() == 125, "{name}: {ran:?}");
            assert_eq!(fs::read_dir(&target).unwrap().count(), 0, "{name}: {ran:?}");
            assert_eq!(place.remains(), Vec::<String>::new(), "{name}");
        }
    }
}
