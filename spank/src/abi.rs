//! Slurm's side: the symbols that it looks for in a plugin, and those of its
//! own that a plugin calls (slurm/spank.h).
//!
//! A panic must not unwind into Slurm, and none may end slurmstepd: every
//! hook is caught and counts as failed.

use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::plugin;

const NAME: [u8; 7] = *b"denovo\0";
const TYPE: [u8; 6] = *b"spank\0";

/// What build.rs found in slurm_version.h.
const VERSION: u32 = {
    let digits = env!("SLURM_VERSION_NUMBER").as_bytes();
    let (mut value, mut at) = (0, 0);
    while at < digits.len() {
        value = value * 10 + (digits[at] - b'0') as u32;
        at += 1;
    }
    value
};

#[unsafe(no_mangle)]
pub static plugin_name: [u8; 7] = NAME;
#[unsafe(no_mangle)]
pub static plugin_type: [u8; 6] = TYPE;
#[unsafe(no_mangle)]
pub static plugin_version: c_uint = VERSION;
#[unsafe(no_mangle)]
pub static spank_plugin_version: c_uint = 1;

/// `spank_t`.
#[derive(Clone, Copy)]
pub struct Spank(*mut c_void);

/// `struct spank_option`.
#[repr(C)]
pub struct SpankOption {
    name: *const c_char,
    arginfo: *const c_char,
    usage: *const c_char,
    has_arg: c_int,
    val: c_int,
    cb: Option<extern "C" fn(c_int, *const c_char, c_int) -> c_int>,
}

// SAFETY: every pointer is to a literal.
unsafe impl Sync for SpankOption {}

const fn option(
    name: &'static CStr,
    argument: Option<&'static CStr>,
    usage: &'static CStr,
    val: c_int,
) -> SpankOption {
    SpankOption {
        name: name.as_ptr(),
        arginfo: match argument {
            Some(text) => text.as_ptr(),
            None => std::ptr::null(),
        },
        usage: usage.as_ptr(),
        has_arg: argument.is_some() as c_int,
        val,
        cb: Some(given),
    }
}

/// Registered by hand: a table named `spank_options` is not looked at in
/// sbatch and salloc (spank(7)).
static OPTIONS: [SpankOption; 4] = [
    option(c"image", Some(c"NAME"), c"denovo: image that the job runs in, on each of its nodes", 1),
    option(c"bundle", Some(c"DIR|NAME"), c"denovo: the same from an OCI bundle", 2),
    option(c"bind", Some(c"SRC[:DST[:ro]]"), c"denovo: bring a directory of the nodes in", 3),
    option(c"no-denovo", None, c"denovo: run on the bare nodes", 4),
];

fn register(spank: Spank, _: &[String]) -> Result<(), String> {
    for option in &OPTIONS {
        // SAFETY: Slurm copies what the option points to, and writes nothing.
        let rc = unsafe { spank_option_register(spank.0, (&raw const *option).cast_mut()) };
        if rc != 0 {
            return Err("denovo: Slurm does not take the plugin's options".to_owned());
        }
    }
    Ok(())
}

extern "C" fn given(value: c_int, argument: *const c_char, _remote: c_int) -> c_int {
    guarded(|| {
        let text = if argument.is_null() {
            String::new()
        } else {
            // SAFETY: Slurm gives NUL-terminated text for the length of the call.
            unsafe { CStr::from_ptr(argument) }.to_string_lossy().into_owned()
        };
        plugin::option(value, text)
    })
}

fn guarded(work: impl FnOnce() -> Result<(), String>) -> c_int {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(())) => 0,
        Ok(Err(why)) => {
            error(&why);
            -1
        }
        Err(_) => {
            error("denovo: the plugin failed; please report it");
            -1
        }
    }
}

/// Where the plugin is loaded (`spank_context_t`).
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Context {
    /// srun.
    Local,
    /// slurmstepd.
    Remote,
    /// sbatch, salloc.
    Allocator,
    Other,
}

/// `S_JOB_*` of `spank_item_t`, those of a plain number.
#[derive(Clone, Copy)]
#[repr(i32)]
pub enum Item {
    Uid = 0,
    Job = 2,
    StepId = 3,
    AllocatedMemory = 26,
}

unsafe extern "C" {
    fn spank_context() -> c_int;
    fn spank_option_register(spank: *mut c_void, option: *mut SpankOption) -> c_int;
    fn spank_get_item(spank: *mut c_void, item: c_int, ...) -> c_int;
    fn spank_getenv(spank: *mut c_void, name: *const c_char, to: *mut c_char, len: c_int) -> c_int;
    fn spank_setenv(
        spank: *mut c_void,
        name: *const c_char,
        value: *const c_char,
        overwrite: c_int,
    ) -> c_int;
    fn spank_unsetenv(spank: *mut c_void, name: *const c_char) -> c_int;
    fn spank_job_control_setenv(
        spank: *mut c_void,
        name: *const c_char,
        value: *const c_char,
        overwrite: c_int,
    ) -> c_int;
    fn spank_job_control_unsetenv(spank: *mut c_void, name: *const c_char) -> c_int;
    fn slurm_error(format: *const c_char, ...);
    fn slurm_info(format: *const c_char, ...);
    fn slurm_spank_log(format: *const c_char, ...);
}

pub fn context() -> Context {
    // SAFETY: takes nothing.
    match unsafe { spank_context() } {
        1 => Context::Local,
        2 => Context::Remote,
        3 => Context::Allocator,
        _ => Context::Other,
    }
}

fn text(of: &str) -> CString {
    CString::new(of.replace('\0', "")).unwrap_or_default()
}

/// On the standard error of the task or command that is concerned.
pub fn error(message: &str) {
    // SAFETY: the format takes one text, which outlives the call.
    unsafe { slurm_error(c"%s".as_ptr(), text(message).as_ptr()) }
}

/// The same without "error:".
pub fn tell(message: &str) {
    // SAFETY: as above.
    unsafe { slurm_spank_log(c"%s".as_ptr(), text(message).as_ptr()) }
}

/// In slurmd's log.
pub fn log(message: &str) {
    // SAFETY: as above.
    unsafe { slurm_info(c"%s".as_ptr(), text(message).as_ptr()) }
}

impl Spank {
    pub fn number(self, item: Item) -> Option<u64> {
        // Wide enough for each of them; Slurm writes 4 or 8 bytes, little or
        // big end first, so the narrow ones are read as such.
        let mut wide = 0u64;
        let mut narrow = 0u32;
        let at: *mut c_void = match item {
            Item::AllocatedMemory => (&raw mut wide).cast(),
            _ => (&raw mut narrow).cast(),
        };
        // SAFETY: the item's type in spank.h is uint64_t for memory, else
        // uint32_t (uid_t has that width); `at` points to one of that kind.
        let rc = unsafe { spank_get_item(self.0, item as c_int, at) };
        let value = if matches!(item, Item::AllocatedMemory) { wide } else { u64::from(narrow) };
        (rc == 0).then_some(value)
    }

    /// The path of the program, which for a batch job is its script.
    pub fn program(self) -> Option<String> {
        const JOB_ARGV: c_int = 9;
        let mut count: c_int = 0;
        let mut values: *mut *mut c_char = std::ptr::null_mut();
        // SAFETY: the item's type in spank.h is (int *, char ***).
        let rc = unsafe { spank_get_item(self.0, JOB_ARGV, &raw mut count, &raw mut values) };
        if rc != 0 || count < 1 || values.is_null() {
            return None;
        }
        words(1, values).pop()
    }

    /// A variable of the job, of at most 4095 bytes.
    pub fn get(self, name: &str) -> Option<String> {
        let mut buffer = [0 as c_char; 4096];
        // SAFETY: the length is the buffer's; the name outlives the call.
        let rc = unsafe {
            spank_getenv(self.0, text(name).as_ptr(), buffer.as_mut_ptr(), buffer.len() as c_int)
        };
        if rc != 0 {
            return None;
        }
        // SAFETY: Slurm has written NUL-terminated text of at most that length.
        Some(unsafe { CStr::from_ptr(buffer.as_ptr()) }.to_string_lossy().into_owned())
    }

    pub fn set(self, name: &str, value: &str) {
        // SAFETY: both texts outlive the call, which copies them.
        unsafe { spank_setenv(self.0, text(name).as_ptr(), text(value).as_ptr(), 1) };
    }

    pub fn unset(self, name: &str) {
        // SAFETY: the text outlives the call.
        unsafe { spank_unsetenv(self.0, text(name).as_ptr()) };
    }

    /// For the job's prolog and epilog, as `SPANK_NAME`.
    pub fn set_for_prolog(self, name: &str, value: &str) -> bool {
        // SAFETY: both texts outlive the call, which copies them.
        let rc = unsafe {
            spank_job_control_setenv(self.0, text(name).as_ptr(), text(value).as_ptr(), 1)
        };
        rc == 0
    }

    pub fn unset_for_prolog(self, name: &str) {
        // SAFETY: the text outlives the call.
        unsafe { spank_job_control_unsetenv(self.0, text(name).as_ptr()) };
    }
}

/// The words after the plugin's name in plugstack.conf.
fn words(count: c_int, values: *mut *mut c_char) -> Vec<String> {
    (0..usize::try_from(count).unwrap_or(0))
        .map(|at| {
            // SAFETY: Slurm gives `count` pointers to NUL-terminated texts.
            unsafe { CStr::from_ptr(*values.add(at)) }.to_string_lossy().into_owned()
        })
        .collect()
}

macro_rules! hooks {
    ($($name:ident => $called:path;)*) => {$(
        #[unsafe(no_mangle)]
        pub extern "C" fn $name(spank: *mut c_void, count: c_int, values: *mut *mut c_char) -> c_int {
            guarded(|| $called(Spank(spank), &words(count, values)))
        }
    )*};
}

hooks! {
    slurm_spank_init => register;
    slurm_spank_init_post_opt => plugin::options_are_known;
    slurm_spank_user_init => plugin::before_the_tasks;
    slurm_spank_task_init_privileged => plugin::task_as_root;
    slurm_spank_task_init => plugin::task;
    slurm_spank_task_post_fork => plugin::after_the_tasks;
    slurm_spank_task_exit => plugin::after_a_task;
}
