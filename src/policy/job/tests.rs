use super::*;
use crate::host::{Caller, Cgroups};
use crate::policy::spec::Fixture;

fn facts(uid: u32) -> Facts {
    Facts {
        kernel: (6, 1),
        caller: Caller {
            uid,
            gid: uid,
            groups: vec![uid],
            capabilities: 0,
            cpus: vec![0, 1],
            nested: false,
        },
        cgroups: Cgroups::default(),
    }
}

fn person(uid: u32) -> Person {
    let home = Some(PathBuf::from(format!("/home/u{uid}")));
    Person {
        uid,
        gid: uid,
        groups: vec![uid, 50],
        group_names: Vec::new(),
        name: format!("u{uid}"),
        home,
    }
}

fn decided(caller: u32, user: u32, request: &JobRequest, cwd: &str) -> Decided {
    let (facts, person) = (facts(caller), person(user));
    let source = Source::Host(Distribution { memory: 1 << 30, ..Distribution::default() });
    let case = Case {
        id: "job_1.2",
        request,
        facts: &facts,
        person: &person,
        source: &source,
        cpus: request.cpus.map(|_| &[0, 1][..]),
        cwd: Some(cwd),
        launcher: &[],
        scratch: None,
        views: true,
        resolver: None,
        instances: Some(64),
        seed: [7; 32],
    };
    decide(&case).expect("decided")
}

fn binds(decided: &Decided) -> Vec<String> {
    let fixtures = decided.spec.fixtures.iter();
    let mounts = fixtures.filter_map(|f| match f {
        Fixture::Mount(m) if matches!(m.source, crate::policy::spec::MountSource::Bind { .. }) => {
            Some(m.destination.to_string_lossy())
        }
        _ => None,
    });
    mounts.filter(|d| !d.starts_with("/sys")).collect()
}

#[test]
fn a_user_is_nobody_else_inside_and_owns_the_namespaces() {
    let by_user = decided(1500, 1500, &JobRequest::default(), "/");
    let one = vec![IdMap { inside: 1500, outside: 1500, count: 1 }];
    assert_eq!(by_user.spec.namespaces.uid_map, one);
    assert!(by_user.spec.namespaces.deny_setgroups && by_user.spec.namespaces.owner.is_none());
    let by_root = decided(0, 1500, &JobRequest::default(), "/");
    assert_eq!(by_root.spec.namespaces.uid_map, one);
    assert_eq!(by_root.spec.namespaces.owner.as_ref().map(|o| o.uid), Some(1500));
    assert!(!by_root.spec.namespaces.deny_setgroups);
    // Root is not mapped into a user's environment: the user owns it and
    // could become whoever is.
    assert!(by_root.spec.namespaces.gid_map.iter().all(|m| m.inside != 0));
}

#[test]
fn what_is_brought_in_is_home_and_the_working_directory_once() {
    let request = JobRequest::default();
    let table = [
        ("/", vec!["/home/u5"]),
        ("/tmp", vec!["/home/u5"]),
        ("/tmp/work", vec!["/home/u5", "/tmp/work"]),
        ("/home/u5/a", vec!["/home/u5"]),
        ("/home/u55", vec!["/home/u5", "/home/u55"]),
        ("/usr/share", vec!["/home/u5"]),
        ("/scratch/x", vec!["/home/u5", "/scratch/x"]),
    ];
    for (cwd, expected) in table {
        assert_eq!(binds(&decided(5, 5, &request, cwd)), expected, "{cwd}");
    }
    let no_home = JobRequest { no_home: true, ..request };
    assert_eq!(binds(&decided(5, 5, &no_home, "/")), Vec::<String>::new());
}

#[test]
fn limits_that_no_group_can_hold_are_said_in_one_line() {
    let request =
        JobRequest { cpus: Some(2), memory: Some(1 << 30), pids: Some(9), ..JobRequest::default() };
    let user = decided(5, 5, &request, "/");
    assert_eq!(user.affinity, Some(vec![0, 1]));
    assert_eq!(user.warnings.len(), 1);
    assert!(user.warnings[0].contains("--memory and --pids"), "{:?}", user.warnings);
    let root = decided(0, 5, &request, "/");
    assert_eq!(root.spec.cgroup.path.as_deref(), Some("denovo-job_1.2"));
    assert_eq!((root.affinity, root.spec.cgroup.delegate_to), (None, Some(5)));
    assert!(root.warnings.is_empty());
}

#[test]
fn the_hostname_is_made_from_the_id() {
    let decided = decided(5, 5, &JobRequest::default(), "/");
    assert_eq!(decided.spec.hostname.map(|h| h.to_string_lossy()).as_deref(), Some("job-1-2"));
    for (text, good) in [
        ("a", true),
        ("n1.cluster", true),
        ("-a", false),
        ("a..b", false),
        ("a_b", false),
        ("", false),
    ] {
        assert_eq!(check_hostname(text).is_ok(), good, "{text:?}");
    }
}

#[test]
fn the_part_of_the_users_limits_is_a_setting_of_its_namespace() {
    let spec = decided(5, 5, &JobRequest::default(), "/").spec;
    let settings = [(CText::lossy("user/max_inotify_instances"), CText::lossy("64"))];
    assert_eq!(spec.sysctl, settings);
}
