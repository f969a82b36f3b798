use super::*;
use crate::host::node::Clock;

const UID: u32 = 61001;

fn thing(kind: Kind, key: &str, owner: Option<u32>, made: Option<u64>) -> Thing {
    let handle = match kind {
        Kind::Process => Handle::Process { pid: 7, started: 1 },
        Kind::Tmp => Handle::File { path: key.into(), device: 1, inode: 1 },
        Kind::Loop => Handle::Loop { number: 3 },
        _ => Handle::None,
    };
    Thing { kind, key: key.to_owned(), what: key.to_owned(), owner, made, job: None, handle }
}

fn state(things: Vec<Thing>) -> NodeState {
    let amounts = Amounts {
        memory_total: 100 << 30,
        memory_available: 95 << 30,
        page_cache: 1 << 30,
        in_large_blocks: 900,
        clock: Some(Clock { synchronised: true, offset: 0 }),
        ..Amounts::default()
    };
    let settings = [("vm.swappiness".to_owned(), "60".to_owned())].into();
    NodeState { kernel: "6.1".into(), boot_id: "b".into(), things, settings, amounts, at: 1000 }
}

fn ended(id: &str, from: u64, to: u64) -> Ended {
    Ended { id: id.to_owned(), uid: UID, from, to }
}

fn audit(state: &NodeState, jobs: &Jobs) -> Audit {
    let baseline = Baseline::of(&self::state(vec![thing(Kind::Mount, "/ ext4", None, None)]));
    let mut state = state.clone();
    state.things.push(thing(Kind::Mount, "/ ext4", None, None));
    compare(&state, Some(&baseline), jobs, &Owners::default(), &Freshness::default())
}

#[test]
fn what_is_as_before_is_fresh() {
    let found = audit(&state(Vec::new()), &Jobs::default());
    assert_eq!((found.verdict, found.differences.len()), (Verdict::Fresh, 0));
    assert_eq!(found.reason(), None);
}

#[test]
fn a_thing_is_its_jobs_by_user_and_time() {
    let jobs = Jobs {
        ended: vec![ended("slurm-1", 100, 200), ended("slurm-2", 300, 400)],
        ..Jobs::default()
    };
    for (made, job, certain) in [
        (Some(150), Some("slurm-1"), true),
        (Some(350), Some("slurm-2"), true),
        (Some(250), Some("slurm-1"), false),
        (Some(50), None, false),
        (None, Some("slurm-2"), false),
    ] {
        let found = audit(&state(vec![thing(Kind::Process, "x", Some(UID), made)]), &jobs);
        let first = &found.differences[0];
        assert_eq!((first.job.as_deref(), first.certain), (job, certain), "{made:?}");
        assert_eq!(first.remedy.contains("--clean"), certain, "{made:?}");
        assert_eq!(found.verdict, Verdict::Dirty);
    }
    // Memory only: nobody else can have made it since the boot.
    let queue = state(vec![thing(Kind::Mqueue, "/q", Some(UID), None)]);
    assert!(audit(&queue, &jobs).differences[0].certain);
    let later = Jobs { booted: 500, ..jobs };
    assert!(!audit(&queue, &later).differences[0].certain);
}

#[test]
fn what_a_running_job_may_have_is_no_residue() {
    let mut of_group = thing(Kind::Process, "y", Some(0), None);
    of_group.job = Some("slurm-5".to_owned());
    let things = vec![
        thing(Kind::Process, "x", Some(UID), Some(5)),
        thing(Kind::Tmp, "/tmp/x", Some(UID), Some(5)),
        // A further id of the same user.
        thing(Kind::Tmp, "/tmp/y", Some(100_007), Some(5)),
        of_group,
        thing(Kind::Tmp, "/tmp/other", Some(61002), Some(5)),
    ];
    let running = Running { id: "slurm-5".to_owned(), uid: UID, pids: vec![9] };
    let jobs = Jobs { running: vec![running], ..Jobs::default() };
    let owners = Owners { ranges: vec![(100_000, 65536, UID)] };
    let baseline = Baseline::of(&state(Vec::new()));
    let found = compare(&state(things), Some(&baseline), &jobs, &owners, &Freshness::default());
    let left: Vec<&str> = found.differences.iter().map(|d| &*d.what).collect();
    assert_eq!((left, found.of_running_jobs), (vec!["/tmp/other"], 4));
}

#[test]
fn denovos_own_is_exempt() {
    let jobs = Jobs { exempt: vec!["/tmp/run".into()], loops: vec![3], ..Jobs::default() };
    let things = vec![
        thing(Kind::Tmp, "/tmp/run/x", Some(0), None),
        thing(Kind::Loop, "/img", Some(0), None),
    ];
    assert_eq!(audit(&state(things), &jobs).differences, []);
}

#[test]
fn the_system_s_own_is_told_and_tolerated() {
    let found = audit(&state(vec![thing(Kind::Process, "cron", Some(0), None)]), &Jobs::default());
    assert!(found.differences[0].tolerated);
    assert_eq!(found.verdict, Verdict::Fresh);
}

#[test]
fn settings_and_amounts_are_compared() {
    let mut now = state(Vec::new());
    now.settings.insert("vm.swappiness".into(), "10".into());
    now.settings.insert("vm.new".into(), "1".into());
    now.kernel = "6.2".into();
    now.amounts.memory_available = 80 << 30;
    now.amounts.memory_total = 90 << 30;
    now.amounts.page_cache = 20 << 30;
    now.amounts.in_large_blocks = 100;
    now.amounts.gpu_memory.insert("GPU-a".into(), 1 << 30);
    now.amounts.clock = Some(Clock { synchronised: false, offset: -200_000 });
    now.amounts.errors.insert("memory mc0 corrected".into(), 2);
    let kinds = |audit: &Audit| -> Vec<String> {
        audit.differences.iter().map(|d| format!("{} {}", d.kind.name(), d.what)).collect()
    };
    let expected = [
        "gpu GPU-a: 1024 MiB in use, 0 MiB in the baseline",
        "setting vm.swappiness is 10, in the baseline 60",
        "memory 81920 MiB available, 97280 MiB in the baseline",
        "memory 92160 MiB in all, 102400 MiB in the baseline",
        "page-cache 20480 MiB of files in memory, 1024 MiB in the baseline",
        "fragmentation 10 % of free memory in blocks of 2 MiB, 90 % in the baseline",
        "clock is 200 ms off",
        "clock nobody keeps it in time",
        "hardware memory mc0 corrected: 2",
        "kernel is 6.2, in the baseline 6.1",
    ];
    assert_eq!(kinds(&audit(&now, &Jobs::default())), expected);
    // A job that runs may have memory, files, the GPU.
    let running = vec![Running { id: "j".into(), uid: 5, pids: vec![] }];
    let busy = kinds(&audit(&now, &Jobs { running, ..Jobs::default() }));
    assert_eq!(busy.len(), expected.len() - 4, "{busy:#?}");
}

#[test]
fn a_mount_that_is_gone_is_told() {
    let baseline = Baseline::of(&state(vec![thing(Kind::Mount, "/scratch xfs", None, None)]));
    let found = compare(
        &state(Vec::new()),
        Some(&baseline),
        &Jobs::default(),
        &Owners::default(),
        &Freshness::default(),
    );
    assert_eq!(found.reason().unwrap(), "node is dirty: mount /scratch xfs is gone");
}

#[test]
fn without_a_baseline_users_things_are_told() {
    let things =
        vec![thing(Kind::Process, "a", Some(0), None), thing(Kind::Process, "b", Some(UID), None)];
    let found =
        compare(&state(things), None, &Jobs::default(), &Owners::default(), &Freshness::default());
    let kinds: Vec<Kind> = found.differences.iter().map(|d| d.kind).collect();
    assert_eq!(kinds, [Kind::Process, Kind::Baseline]);
}

#[test]
fn the_verdict_follows_what_has_become_of_it() {
    let mut found =
        audit(&state(vec![thing(Kind::Tmp, "/tmp/x", Some(UID), None)]), &Jobs::default());
    found.differences[0].outcome = Outcome::Cleaned;
    found.judge();
    assert_eq!(found.verdict, Verdict::Cleaned);
    found.differences[0].outcome = Outcome::Failed("busy".into());
    found.judge();
    assert_eq!(found.verdict, Verdict::Dirty);
}

#[test]
fn a_baseline_is_read_back_as_it_was_written() {
    let baseline = Baseline::of(&state(vec![thing(Kind::SysvShm, "0x1 0", Some(0), None)]));
    let text = serde_json::to_string(&baseline).unwrap();
    assert!(text.contains("\"sysv-shm\":[\"0x1 0\"]"), "{text}");
    assert_eq!(serde_json::from_str::<Baseline>(&text).unwrap(), baseline);
}
