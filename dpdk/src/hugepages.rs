//! The kernel's counts of huge pages.

use std::{fs, path::Path};

const SYSFS: &str = "/sys/kernel/mm/hugepages";

/// Bytes in free huge pages of all sizes, without pages that are reserved.
pub(crate) fn free_bytes() -> usize {
    free_bytes_in(Path::new(SYSFS))
}

fn free_bytes_in(folder: &Path) -> usize {
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    entries
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name();
            let kib: usize = name.to_str()?.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
            let count = |file| fs::read_to_string(entry.path().join(file)).ok()?.trim().parse::<usize>().ok();
            // Reserved pages are promised to a mapping that has not touched them yet.
            Some(count("free_hugepages")?.saturating_sub(count("resv_hugepages")?) * kib * 1024)
        })
        .sum()
}

/// Bytes in one huge page of the default size; `None` on a kernel without huge pages.
pub(crate) fn default_page_bytes() -> Option<usize> {
    field_kib(&fs::read_to_string("/proc/meminfo").ok()?, "Hugepagesize:")
}

/// Huge pages of the default size reserved now, free or not.
pub(crate) fn default_pages_total() -> usize {
    fs::read_to_string("/proc/sys/vm/nr_hugepages")
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(0)
}

fn field_kib(meminfo: &str, field: &str) -> Option<usize> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix(field))?;
    let kib: usize = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn meminfo_gives_the_default_size() {
        let text = "HugePages_Free:     1024\nHugepagesize:       2048 kB\nHugetlb:         2097152 kB\n";
        assert_eq!(field_kib(text, "Hugepagesize:"), Some(2 << 20));
        assert_eq!(field_kib("MemTotal: 1 kB\n", "Hugepagesize:"), None);
    }

    #[test]
    fn promised_pages_are_not_free() {
        let folder = tempfile::tempdir().unwrap();
        for (size, free, reserved) in [("hugepages-2048kB", "10", "4"), ("hugepages-1048576kB", "1", "0")] {
            let size = folder.path().join(size);
            fs::create_dir(&size).unwrap();
            fs::write(size.join("free_hugepages"), free).unwrap();
            fs::write(size.join("resv_hugepages"), reserved).unwrap();
        }
        assert_eq!(free_bytes_in(folder.path()), 6 * (2 << 20) + (1 << 30));
        assert_eq!(free_bytes_in(&folder.path().join("none")), 0);
    }
}
