//! A job at a terminal. `script` of util-linux makes the one outside.

use std::io::Write;
use std::process::Stdio;

use crate::common::{Going, skip};
use crate::help::Place;

/// `script` runs a shell's line on a new terminal of 33 rows and 77 columns;
/// what is typed comes over the pipe.
fn at_terminal(place: &Place, line: &str) -> Going {
    let mut command = place.program("script");
    command.args(["-qec", &format!("stty rows 33 cols 77; {line}"), "/dev/null"]);
    command.stdin(Stdio::piped());
    place.start(command)
}

fn lacks(test: &str) -> bool {
    let lacks = std::process::Command::new("script").arg("--version").output().is_err();
    if lacks {
        skip(test, "script (package bsdutils) is not there");
    }
    lacks
}

#[test]
fn a_terminal_of_its_own_with_the_callers_size() {
    let test = "a_terminal_of_its_own_with_the_callers_size";
    for place in Place::each(test).filter(|_| !lacks(test)) {
        let inside = "tty; stty size; ls /dev/pts; test -t 0 && test -t 1 && test -t 2 && echo all; \
                      echo x >/dev/tty; ps -o tty= -p $$";
        let going = at_terminal(&place, &place.line(&["job", "run", "--", "sh", "-c", inside]));
        let ran = going.wait().expect(0, inside);
        let lines: Vec<&str> = ran.lines().iter().map(|l| l.trim()).collect();
        assert_eq!(lines[..2], ["/dev/pts/0", "33 77"], "{ran:?}");
        assert!(
            lines.contains(&"all") && lines.contains(&"x") && lines.contains(&"pts/0"),
            "{ran:?}"
        );
    }
}

#[test]
fn in_the_background_the_terminal_is_left_to_its_owner() {
    let test = "in_the_background_the_terminal_is_left_to_its_owner";
    for place in Place::each(test).filter(|_| !lacks(test)) {
        let run = place.line(&["job", "run", "--", "sh", "-c", "echo begun; sleep 2; echo over"]);
        let line = format!(
            "set -m; {run} & sleep 1; stty -a | grep -o ' icanon'; read -r words; \
             echo \"got <$words>\"; wait $!; echo code $?"
        );
        let mut going = at_terminal(&place, &line);
        let mut keys = going.child.stdin.take().unwrap();
        going.await_output("icanon");
        keys.write_all(b"some words\r").unwrap();
        going.await_output("code ");
        drop(keys);
        let ran = going.wait();
        for words in ["got <some words>", "over", "code 0"] {
            assert!(ran.out.contains(words), "{words}: {ran:?}");
        }
    }
}

#[test]
fn what_is_typed_arrives_and_control_c_interrupts() {
    let test = "what_is_typed_arrives_and_control_c_interrupts";
    for place in Place::each(test).filter(|_| !lacks(test)) {
        let inside = "read -r line; echo \"got <$line>\"; trap 'echo interrupted; exit 5' INT; echo ready; \
                      while :; do sleep 0.05; done";
        let run = place.line(&["job", "run", "--", "sh", "-c", inside]);
        let mut going =
            at_terminal(&place, &format!("{run}; echo code $?; stty -a | grep -o ' icanon'"));
        let mut keys = going.child.stdin.take().unwrap();
        keys.write_all(b"some words\r").unwrap();
        going.await_output("ready");
        keys.write_all(&[3]).unwrap();
        going.await_output("code 5");
        going.await_output(" icanon");
        drop(keys);
        let ran = going.wait();
        assert!(ran.out.contains("got <some words>") && ran.out.contains("interrupted"), "{ran:?}");
        // The caller's terminal is as it was.
        assert!(!ran.out.contains("-icanon"), "{ran:?}");
    }
}

#[test]
fn the_window_may_change() {
    let test = "the_window_may_change";
    for place in Place::each(test).filter(|_| !lacks(test)) {
        // stty sets rows and columns one after the other, so it may come twice.
        let inside = "trap 's=$(stty size); echo $s; [ \"$s\" != \"11 22\" ] || exit 0' WINCH; \
                      echo ready; while :; do sleep 0.05; done";
        let run = place.line(&["job", "run", "--", "sh", "-c", inside]);
        // The terminal outside is changed from beside.
        let line = format!(
            "t=$(tty); (while ! [ -e go ]; do sleep 0.02; done; stty -F $t rows 11 cols 22) & {run}"
        );
        let going = at_terminal(&place, &line);
        going.await_output("ready");
        std::fs::write(place.home().join("go"), "").unwrap();
        going.await_output("11 22");
        going.wait().expect(0, "WINCH");
    }
}

#[test]
fn a_terminal_that_vanishes_ends_the_job() {
    let test = "a_terminal_that_vanishes_ends_the_job";
    for place in Place::each(test).filter(|_| !lacks(test)) {
        let run = place.line(&["job", "run", "--", "sh", "-c", "echo ready; sleep 1000; true"]);
        let going = at_terminal(&place, &run);
        going.await_output("ready");
        going.signal(libc::SIGKILL);
        going.wait().expect(137, "script was killed");
        place.await_nothing();
    }
}

#[test]
fn without_a_terminal_on_both_ends_there_is_none_inside() {
    let test = "without_a_terminal_on_both_ends_there_is_none_inside";
    for place in Place::each(test).filter(|_| !lacks(test)) {
        let run =
            place.line(&["job", "run", "--", "sh", "-c", "test -t 0; echo $?; test -t 1; echo $?"]);
        let ran = at_terminal(&place, &format!("{run} </dev/null | cat")).wait().expect(0, "pipe");
        assert_eq!(ran.lines().iter().map(|l| l.trim()).collect::<Vec<_>>(), ["1", "1"]);
    }
}
