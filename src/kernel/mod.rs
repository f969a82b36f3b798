pub mod cgroup;
pub mod sys;
