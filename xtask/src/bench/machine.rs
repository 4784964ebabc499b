//! The machine that figures come from.

use std::{fs, thread};

use serde::{Deserialize, Serialize};

/// What of the machine the figures depend on.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct Machine {
    processor: String,
    processors: usize,
    memory_kib: u64,
    kernel: String,
    /// The kernels of the virtual machines that were measured in.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    guests: Vec<String>,
}

impl Machine {
    /// This machine; what the kernel does not tell is `unknown` or 0.
    pub(super) fn this() -> Self {
        let field = |file: &str, name: &str| {
            let text = fs::read_to_string(file).ok()?;
            let line = text.lines().find(|line| line.starts_with(name))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        };
        let unknown = || "unknown".to_owned();
        let memory = field("/proc/meminfo", "MemTotal");
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease");
        Self {
            processor: field("/proc/cpuinfo", "model name").unwrap_or_else(unknown),
            processors: thread::available_parallelism().map_or(0, usize::from),
            memory_kib: memory.and_then(|text| text.trim_end_matches(" kB").parse().ok()).unwrap_or(0),
            kernel: kernel.map_or_else(|_| unknown(), |text| text.trim().to_owned()),
            guests: Vec::new(),
        }
    }

    /// With virtual machines on it, by their kernels.
    pub(super) fn with_guests(mut self, kernels: impl Iterator<Item = String>) -> Self {
        self.guests.extend(kernels.map(|kernel| format!("Linux {kernel}")));
        self
    }

    /// In one line.
    pub(super) fn shown(&self) -> String {
        let gigabytes = self.memory_kib as f64 / f64::from(1 << 20);
        let guests = match self.guests.as_slice() {
            [] => String::new(),
            guests => format!(" (emulated by QEMU: {})", guests.join(", ")),
        };
        format!("{} × {}, {gigabytes:.1} GiB, Linux {}{guests}", self.processors, self.processor, self.kernel)
    }
}
