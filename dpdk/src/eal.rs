//! DPDK's environment: memory, threads, and the one start and one clean-up of a process.

use std::{
    collections::{HashMap, HashSet},
    ffi::{CStr, CString, c_int},
    fs,
    marker::PhantomData,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use crate::{
    error::{DpdkError, reason},
    hugepages, pci,
};

/// EAL can be initialized once a process: it keeps state that its own clean-up does not reset.
static STARTED: AtomicBool = AtomicBool::new(false);

/// Whether DPDK's memory lies in huge pages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HugePages {
    /// Refuse to start without them.
    Required,
    /// Use them if enough are free, and normal pages otherwise.
    #[default]
    Preferred,
    /// Normal pages: slower, and no physical device can be driven from them without an IOMMU.
    None,
}

/// The pages of DPDK's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pages {
    /// Huge pages.
    Huge,
    /// Normal pages.
    Normal,
}

/// How much DPDK logs to stderr.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogLevel {
    /// Errors only.
    #[default]
    Error = 4,
    /// Warnings as well.
    Warning = 5,
    /// Notable events at the start as well.
    Notice = 6,
    /// Each driver's findings as well.
    Info = 7,
    /// Everything.
    Debug = 8,
}

/// How to start DPDK's environment.
#[derive(Clone, Debug)]
pub struct EalConfig {
    /// Whether memory lies in huge pages.
    pub huge_pages: HugePages,
    /// Memory taken at start, MiB. Packet pools come out of it; in normal pages it cannot grow later.
    pub memory_mib: usize,
    /// Distinguishes this process from others that use DPDK on the host.
    pub file_prefix: String,
    /// The core that DPDK's own control threads may use; `None` leaves them any core that the process may
    /// use. The start keeps the calling thread's affinity.
    pub main_core: Option<usize>,
    /// PCI addresses that DPDK may drive. Without any, the PCI bus is not scanned.
    pub pci_allow: Vec<String>,
    /// Virtual devices to make at the start. [`crate::Port::open`] makes those of its own ports.
    pub vdevs: Vec<String>,
    /// Whether huge pages lie in a few large files instead of one a page. A `net_virtio_user` shares its files with the other side,
    /// which takes eight at most.
    pub single_file_segments: bool,
    /// Further arguments to EAL, as on its command line.
    pub extra_args: Vec<String>,
    /// How much DPDK logs.
    pub log_level: LogLevel,
}

impl Default for EalConfig {
    fn default() -> Self {
        Self {
            huge_pages: HugePages::default(),
            memory_mib: 512,
            file_prefix: format!("stoq-{}", std::process::id()),
            main_core: None,
            pci_allow: Vec::new(),
            vdevs: Vec::new(),
            single_file_segments: false,
            extra_args: Vec::new(),
            log_level: LogLevel::default(),
        }
    }
}

/// DPDK's environment, started. Cleaned up when this and all its ports, queues and registered threads have
/// been dropped.
#[derive(Debug)]
pub struct Eal {
    pages: Pages,
    runtime_dir: Option<PathBuf>,
    pub(crate) pci_allow: Vec<String>,
    control: Mutex<Control>,
    // Some releases keep pointers into argv.
    _args: Vec<CString>,
}

/// The devices and sockets of this process' ports. Its lock also serializes the control path, which DPDK does
/// not do by itself.
#[derive(Debug, Default)]
pub(crate) struct Control {
    pub(crate) open: HashSet<String>,
    pub(crate) served_sockets: HashMap<PathBuf, usize>,
}

/// Pieces of DPDK's own log that were lost, because standard error would not take them at once.
pub fn log_writes_lost() -> u64 {
    // SAFETY: it reads an atomic counter, before EAL's start as well.
    unsafe { dpdk_sys::stoq_log_writes_lost() }
}

impl Eal {
    /// Starts DPDK's environment. The caller's CPU affinity is kept. Logs go to stderr, and are lost while
    /// its reader is too slow.
    ///
    /// Memory is mapped without files: that needs no hugetlbfs mount and no privilege, and leaves no file
    /// behind. It excludes secondary DPDK processes, which STOQ does not use.
    ///
    /// # Errors
    ///
    /// [`DpdkError::AlreadyStarted`] in a process that has started it before, even if it was dropped since;
    /// [`DpdkError::NoHugePages`] if they are required and missing; an error about a PCI device that this process may not
    /// have; [`DpdkError::Eal`] with DPDK's own reason.
    pub fn init(config: &EalConfig) -> Result<Self, DpdkError> {
        let pages = choose_pages(config.huge_pages, config.memory_mib)?;
        pci::require_all(config, pages)?;
        let args = arguments(config, pages)?;
        if STARTED.swap(true, Ordering::SeqCst) {
            return Err(DpdkError::AlreadyStarted);
        }
        let mut argv: Vec<_> = args.iter().map(|arg| arg.as_ptr().cast_mut()).collect();
        argv.push(std::ptr::null_mut());
        // SAFETY: argv holds argc valid C strings and a null, as for main. EAL permutes the array, not the strings;
        // these outlive it, in the Eal or, on failure, as EAL keeps nothing. `STARTED` makes this the only call.
        let code = unsafe { dpdk_sys::stoq_eal_init(args.len() as c_int, argv.as_mut_ptr()) };
        if code < 0 {
            return Err(DpdkError::Eal { reason: reason(code) });
        }
        Ok(Self {
            pages,
            runtime_dir: runtime_dir(&config.file_prefix),
            pci_allow: config.pci_allow.iter().map(|pci| pci.to_ascii_lowercase()).collect(),
            control: Mutex::default(),
            _args: args,
        })
    }

    /// The pages of DPDK's memory. They tell whether [`HugePages::Preferred`] found huge pages.
    pub fn pages(&self) -> Pages {
        self.pages
    }

    /// Registers the calling thread with DPDK until the guard is dropped. The thread then has packet-pool caches
    /// of its own. Without them, each allocation of packet buffers goes to the pool's shared ring. Queues
    /// work either way.
    ///
    /// # Errors
    ///
    /// [`DpdkError::RegisterThread`] if DPDK has no place for another thread.
    pub fn register_thread(self: &Arc<Self>) -> Result<RegisteredThread, DpdkError> {
        // SAFETY: EAL is initialized, as `self` proves.
        match unsafe { dpdk_sys::stoq_thread_register() } {
            code if code < 0 => Err(DpdkError::RegisterThread { reason: reason(code) }),
            code => Ok(RegisteredThread { by_us: code == 1, _eal: self.clone(), _not_send: PhantomData }),
        }
    }

    pub(crate) fn control(&self) -> MutexGuard<'_, Control> {
        self.control.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Eal {
    fn drop(&mut self) {
        // SAFETY: every port, queue and registered thread holds an Arc of this, so none is left.
        unsafe { dpdk_sys::stoq_eal_cleanup() };
        // EAL keeps its folder for the next process with the same prefix; this prefix is used once.
        if let Some(folder) = &self.runtime_dir {
            let _ = fs::remove_dir_all(folder);
        }
    }
}

/// A thread registered with DPDK, from [`Eal::register_thread`]. Stays on its thread.
#[derive(Debug)]
pub struct RegisteredThread {
    by_us: bool,
    _eal: Arc<Eal>,
    _not_send: PhantomData<*mut ()>,
}

impl Drop for RegisteredThread {
    fn drop(&mut self) {
        if self.by_us {
            // SAFETY: this type is not Send, so this is the thread that was registered, and EAL is still up.
            unsafe { dpdk_sys::stoq_thread_unregister() };
        }
    }
}

fn choose_pages(wish: HugePages, memory_mib: usize) -> Result<Pages, DpdkError> {
    let free_mib = hugepages::free_bytes() >> 20;
    match wish {
        HugePages::None => Ok(Pages::Normal),
        _ if free_mib >= memory_mib.max(1) => Ok(Pages::Huge),
        HugePages::Preferred => Ok(Pages::Normal),
        HugePages::Required => {
            let page_mib = (hugepages::default_page_bytes().unwrap_or(2 << 20) >> 20).max(1);
            let pages = hugepages::default_pages_total() + (memory_mib - free_mib).div_ceil(page_mib);
            Err(DpdkError::NoHugePages { needed_mib: memory_mib, free_mib, pages })
        }
    }
}

fn arguments(config: &EalConfig, pages: Pages) -> Result<Vec<CString>, DpdkError> {
    let prefix = &config.file_prefix;
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if prefix.is_empty() || prefix.starts_with('.') || !prefix.chars().all(plain) {
        return Err(DpdkError::InvalidFilePrefix(prefix.clone()));
    }
    let cores = config.main_core.map_or_else(allowed_cores, |core| core.to_string());
    let mut args: Vec<String> = vec![
        "stoq".into(),
        "--no-telemetry".into(),
        format!("--file-prefix={prefix}"),
        // One lcore that floats over these cores. Workers are our own threads, registered when they start.
        format!("--lcores=0@({cores})"),
        format!("--log-level={}", config.log_level as u8),
        "-m".into(),
        config.memory_mib.to_string(),
    ];
    match pages {
        Pages::Huge => args.push("--in-memory".into()),
        // --no-huge implies the legacy memory mode, which excludes --in-memory.
        Pages::Normal => args.extend(["--no-huge".into(), "--no-shconf".into()]),
    }
    if config.single_file_segments && pages == Pages::Huge {
        args.push("--single-file-segments".into());
    }
    if config.pci_allow.is_empty() {
        args.push("--no-pci".into());
    }
    for pci in &config.pci_allow {
        args.extend(["-a".into(), pci.clone()]);
    }
    args.extend(config.vdevs.iter().map(|vdev| format!("--vdev={vdev}")));
    args.extend(config.extra_args.iter().cloned());
    args.into_iter()
        .map(|arg| CString::new(arg.clone()).map_err(|_| DpdkError::InvalidArgument(arg)))
        .collect()
}

/// The cores that this thread may run on, as a list like `0-3,8`. In a container, core 0 may be missing.
fn allowed_cores() -> String {
    fs::read_to_string("/proc/thread-self/status")
        .ok()
        .and_then(|status| {
            status.lines().find_map(|line| Some(line.strip_prefix("Cpus_allowed_list:")?.trim().to_owned()))
        })
        .unwrap_or_else(|| "0".into())
}

/// EAL's folder for this prefix, if it may be removed whole.
fn runtime_dir(prefix: &str) -> Option<PathBuf> {
    // SAFETY: EAL is initialized; the string is EAL's own, valid until clean-up, and copied here.
    let folder = unsafe { CStr::from_ptr(dpdk_sys::stoq_eal_runtime_dir()) };
    let folder = Path::new(std::ffi::OsStr::from_bytes(folder.to_bytes()));
    (folder.is_absolute() && folder.ends_with(Path::new("dpdk").join(prefix))).then(|| folder.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(config: &EalConfig, pages: Pages) -> Vec<String> {
        arguments(config, pages).unwrap().into_iter().map(|arg| arg.into_string().unwrap()).collect()
    }

    #[test]
    fn the_pci_bus_is_only_scanned_for_listed_devices() {
        let mut config = EalConfig::default();
        assert!(strings(&config, Pages::Huge).contains(&"--no-pci".into()));
        config.pci_allow.push("0000:00:04.0".into());
        let args = strings(&config, Pages::Huge);
        assert!(!args.contains(&"--no-pci".into()));
        assert!(args.windows(2).any(|pair| pair == ["-a", "0000:00:04.0"]));
    }

    #[test]
    fn normal_pages_are_requested_explicitly() {
        let config = EalConfig::default();
        assert!(strings(&config, Pages::Normal).contains(&"--no-huge".into()));
        assert!(!strings(&config, Pages::Huge).contains(&"--no-huge".into()));
    }

    #[test]
    fn huge_pages_lie_in_few_files_where_they_are_shared_by_file() {
        let config = EalConfig { single_file_segments: true, ..EalConfig::default() };
        let few = |args: &[String]| args.contains(&"--single-file-segments".into());
        assert!(few(&strings(&config, Pages::Huge)));
        assert!(!few(&strings(&config, Pages::Normal)), "these are one file anyway");
        assert!(!few(&strings(&EalConfig::default(), Pages::Huge)));
    }

    #[test]
    fn a_prefix_cannot_name_a_folder_elsewhere() {
        for prefix in ["", "..", "a/b", "a b"] {
            let config = EalConfig { file_prefix: prefix.into(), ..EalConfig::default() };
            assert!(
                matches!(arguments(&config, Pages::Huge), Err(DpdkError::InvalidFilePrefix(_))),
                "{prefix}"
            );
        }
    }

    #[test]
    fn more_memory_than_is_free_is_refused_with_the_fix() {
        let error = choose_pages(HugePages::Required, 1 << 30).unwrap_err();
        assert!(error.to_string().contains("/proc/sys/vm/nr_hugepages"), "{error}");
        assert_eq!(choose_pages(HugePages::Preferred, 1 << 30).unwrap(), Pages::Normal);
        assert_eq!(choose_pages(HugePages::None, 1).unwrap(), Pages::Normal);
    }
}
