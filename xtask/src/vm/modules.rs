//! Which modules of a kernel must be loaded for some to work, in their order: depmod's `modules.dep`.

use std::collections::HashMap;

use anyhow::{Context as _, Result};

/// What depmod found out of a kernel's modules.
pub(super) struct Modules<'a> {
    /// By name: the module's file, and those of all that it needs, as `modules.dep` lists them.
    loadable: HashMap<String, (&'a str, Vec<&'a str>)>,
    /// Names of those that are part of the kernel.
    builtin: Vec<String>,
}

impl<'a> Modules<'a> {
    /// Reads the texts of `modules.dep` and `modules.builtin`.
    pub(super) fn new(dependencies: &'a str, builtin: &str) -> Self {
        let loadable = dependencies.lines().filter_map(|line| {
            let (file, needs) = line.split_once(':')?;
            Some((name(file), (file, needs.split_whitespace().collect())))
        });
        Self { loadable: loadable.collect(), builtin: builtin.lines().map(name).collect() }
    }

    /// The files to load for these modules to be there, each after those that it needs; none for what is part of the
    /// kernel.
    pub(super) fn files(&self, names: &[&str]) -> Result<Vec<&'a str>> {
        let mut files = Vec::new();
        for &name in names {
            if self.builtin.iter().any(|builtin| builtin == name) {
                continue;
            }
            let (file, needs) = self.loadable.get(name).with_context(|| {
                format!("the kernel has no module `{name}`, neither loadable nor built in")
            })?;
            // depmod names what a module needs in the order in which modprobe -r would remove it.
            for file in needs.iter().rev().chain([file]) {
                if !files.contains(file) {
                    files.push(file);
                }
            }
        }
        Ok(files)
    }
}

/// A module's name by its file's: without directory and endings, and with `_` for `-`, as the kernel has it.
fn name(file: &str) -> String {
    let file = file.rsplit('/').next().unwrap_or(file);
    file.split('.').next().unwrap_or(file).replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEPENDENCIES: &str = "kernel/fs/9p/9p.ko: kernel/net/9p/9pnet.ko kernel/fs/netfs/netfs.ko\n\
        kernel/net/9p/9pnet.ko:\n\
        kernel/net/9p/9pnet_virtio.ko.xz: kernel/net/9p/9pnet.ko kernel/drivers/virtio/virtio_ring.ko kernel/drivers/virtio/virtio.ko\n\
        kernel/fs/netfs/netfs.ko:\n\
        kernel/crypto/ghash-generic.ko:\n";
    const BUILTIN: &str = "kernel/drivers/char/virtio_console.ko\n";

    #[test]
    fn each_comes_after_what_it_needs_and_once() -> Result<()> {
        let modules = Modules::new(DEPENDENCIES, BUILTIN);
        assert_eq!(
            modules.files(&["9p", "9pnet_virtio"])?,
            [
                "kernel/fs/netfs/netfs.ko",
                "kernel/net/9p/9pnet.ko",
                "kernel/fs/9p/9p.ko",
                "kernel/drivers/virtio/virtio.ko",
                "kernel/drivers/virtio/virtio_ring.ko",
                "kernel/net/9p/9pnet_virtio.ko.xz",
            ]
        );
        Ok(())
    }

    #[test]
    fn what_is_built_in_needs_no_file_and_names_are_the_kernels() -> Result<()> {
        let modules = Modules::new(DEPENDENCIES, BUILTIN);
        assert_eq!(modules.files(&["virtio_console", "ghash_generic"])?, ["kernel/crypto/ghash-generic.ko"]);
        Ok(())
    }

    #[test]
    fn an_unknown_module_is_named() {
        let error = Modules::new(DEPENDENCIES, BUILTIN).files(&["btrfs"]).expect_err("there is none");
        assert!(error.to_string().contains("btrfs"), "{error}");
    }
}
