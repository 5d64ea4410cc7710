//! How much memory this process may use.

use crate::limits::STORE_BYTES_MAX;

/// The memory of the machine, or of the process's control group if that is less, bytes; [`STORE_BYTES_MAX`] if the kernel does not tell.
pub(crate) fn of_machine() -> u64 {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    total_bytes(&read("/proc/meminfo"), &read("/sys/fs/cgroup/memory.max"))
}

/// [`of_machine`], from the contents of the two files.
fn total_bytes(info: &str, group: &str) -> u64 {
    let line = info.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib: Option<u64> = line.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
    let machine = kib.map_or(STORE_BYTES_MAX, |kib| kib * 1024);
    // The file says "max" if the group has no bound.
    group.trim().parse().map_or(machine, |bytes: u64| bytes.min(machine))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smaller_of_machine_and_control_group_counts() {
        let info = "MemTotal:  1310720 kB\nMemFree: 1 kB\n";
        assert_eq!(total_bytes(info, ""), 1280 << 20);
        assert_eq!(total_bytes(info, "max\n"), 1280 << 20);
        assert_eq!(total_bytes(info, "536870912\n"), 512 << 20);
        assert_eq!(total_bytes("", "max"), STORE_BYTES_MAX);
    }
}
