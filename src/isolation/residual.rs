//! Channels that stay open, each with the reason: what `denovo check
//! isolation` does not fail for.

use super::judge::Why;

/// When an open channel is none that denovo could close.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    Always,
    /// The environment has the node's network.
    NodeNetwork,
    /// It may run on every CPU of the node's.
    EveryCpu,
    /// The same, and what is read is its own waiting, not the host's.
    Waiting,
    /// It has no memory limit.
    NoMemoryLimit,
    /// Its files are the node's own distribution.
    OwnDistribution,
    /// Directories of the node's are in it.
    BroughtIn,
    /// An ordinary user made it.
    UsersOwn,
}

/// A channel's name, when it stays open, and why.
pub const RESIDUAL: &[(&str, When, &str)] = &[
    ("kernel", When::Always, "one kernel serves everybody; programs choose by its version"),
    ("cpuinfo", When::Always, "the CPUID instruction tells any program the same"),
    ("pipe_ino", When::Always, "inode numbers of pipes are counted for the whole kernel"),
    ("mntns_ino", When::Always, "inode numbers of namespaces are handed out host-wide"),
    ("anon_dev", When::Always, "device numbers of superblocks are handed out host-wide"),
    ("mnt_id", When::Always, "mount ids are handed out host-wide"),
    ("pidfd_ino", When::Always, "tasks are counted for the whole kernel"),
    ("pipe_size", When::Always, "the kernel limits these for a user; another user's are apart"),
    ("autogroup", When::Always, "sessions are counted host-wide; `noautogroup` at boot ends it"),
    ("softnet", When::Always, "/proc/net/softnet_stat counts packets for each CPU of the host"),
    ("tcp_alloc", When::Always, "the kernel keeps one account of TCP memory"),
    ("env_names", When::Always, "a job's variables are part of what is asked for; --clean-env"),
    ("home", When::Always, "the home directory is the user's own; --no-home leaves it out"),
    ("df_home", When::Always, "the home directory is the user's own; --no-home leaves it out"),
    ("affinity", When::EveryCpu, "a job that has every CPU of the node sees how many; --cpus"),
    ("nproc", When::EveryCpu, "a job that has every CPU of the node sees how many; --cpus"),
    ("cpuinfo_n", When::EveryCpu, "a job that has every CPU of the node sees how many; --cpus"),
    ("cpu_online", When::EveryCpu, "a job that has every CPU of the node sees how many; --cpus"),
    ("self_rundelay_us", When::EveryCpu, "who shares CPUs waits for them; --cpus"),
    ("cgroup_psi", When::EveryCpu, "who shares CPUs waits for them; --cpus"),
    ("psi_cpu", When::Waiting, "who shares CPUs waits for them; --cpus"),
    ("mem_total", When::NoMemoryLimit, "a job without a limit has all the memory; --memory"),
    ("si_totalram", When::NoMemoryLimit, "a job without a limit has all the memory; --memory"),
    ("image_atime", When::OwnDistribution, "the node's own files; a node mounts them `noatime`"),
    ("dev_null_mtime", When::UsersOwn, "only root may make a device: a user's are the node's"),
    ("mount_hostpaths", When::BroughtIn, "what is bound in names its disk; --image, --no-home"),
    ("net_mac", When::NodeNetwork, "MPI needs the node's network"),
    ("sys_class_net", When::NodeNetwork, "MPI needs the node's network"),
    ("net_dev", When::NodeNetwork, "MPI needs the node's network"),
    ("net_arp", When::NodeNetwork, "MPI needs the node's network"),
    ("unix_abstract", When::NodeNetwork, "abstract sockets belong to the network namespace"),
    ("unix_paths", When::NodeNetwork, "sockets are listed for the network namespace"),
    ("tcp_listen", When::NodeNetwork, "sockets are listed for the network namespace"),
    ("udp_bound", When::NodeNetwork, "sockets are listed for the network namespace"),
    ("netlink", When::NodeNetwork, "sockets are listed for the network namespace"),
    ("sockets_used", When::NodeNetwork, "sockets are counted for the network namespace"),
    ("snmp_tcp", When::NodeNetwork, "traffic is counted for the network namespace"),
    ("ports_taken", When::NodeNetwork, "ports belong to the network namespace"),
    ("hosts", When::NodeNetwork, "names of the node's network are found as on the node"),
    ("resolv", When::NodeNetwork, "names of the node's network are found as on the node"),
];

/// What an environment has in common with its node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Shared {
    pub network: bool,
    pub every_cpu: bool,
    pub all_memory: bool,
    pub distribution: bool,
    /// Home, or what is bound in, or the distribution.
    pub directories: bool,
    /// Made without privilege.
    pub users_own: bool,
}

/// Why this channel, found open for such reasons, stays open in such an
/// environment.
pub fn reason(channel: &str, shared: Shared, found: &[Why]) -> Option<&'static str> {
    let holds = |when: When| match when {
        When::Always => true,
        When::NodeNetwork => shared.network,
        When::EveryCpu => shared.every_cpu,
        When::Waiting => shared.every_cpu && found == [Why::Tells],
        When::NoMemoryLimit => shared.all_memory,
        When::OwnDistribution => shared.distribution,
        When::BroughtIn => shared.directories,
        When::UsersOwn => shared.users_own,
    };
    RESIDUAL.iter().find(|(name, when, _)| *name == channel && holds(*when)).map(|(_, _, why)| *why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_residual_is_a_channel() {
        for (name, _, _) in RESIDUAL {
            assert!(super::super::channels().any(|c| c.name == *name), "{name}");
        }
    }

    #[test]
    fn the_nodes_network_excuses_only_who_has_it() {
        let shared = Shared { network: true, ..Shared::default() };
        let tells = [Why::Tells];
        assert!(reason("tcp_listen", shared, &tells).is_some());
        assert!(reason("tcp_listen", Shared { network: false, ..shared }, &tells).is_none());
        assert!(reason("mem_free", shared, &tells).is_none());
    }

    #[test]
    fn the_hosts_pressure_is_not_excused_by_shared_cpus() {
        let shared = Shared { every_cpu: true, ..Shared::default() };
        assert!(reason("psi_cpu", shared, &[Why::Tells]).is_some());
        assert!(reason("psi_cpu", shared, &[Why::Tells, Why::Host]).is_none());
    }
}
