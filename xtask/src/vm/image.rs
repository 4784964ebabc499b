//! What a guest finds in its memory when its kernel starts: busybox, the modules that lead to the machine's files, and the
//! scripts that go there and run the command.
//!
//! The rest is the machine's own: its root directory, read-only by 9p, under a layer of memory that takes what the guest
//! writes. So every program, library and test of the machine is in the guest, by the same path, and nothing that the guest
//! does is there afterwards.

use std::{fs, path::Path};

use anyhow::{Context as _, Result, ensure};

use super::{cpio::Archive, kernel::Installed, modules::Modules};
use crate::process;

/// The modules without which there are no files and no channels; the kernel finds others by itself later.
const MODULES: &[&str] = &["virtio_pci", "virtio_console", "9p", "9pnet_virtio", "overlay"];
/// The channels to the machine, by their numbers as ports of the virtual serial device.
pub(super) const PORTS: [u32; 3] = [1, 2, 3];
/// By what name the guest finds the machine's files.
pub(super) const SHARE: &str = "host";

/// The kernel's first program: loads the modules, lays memory over the machine's files, and goes there.
const INIT: &str = r#"#!/bin/busybox sh
b=/bin/busybox
$b mount -t proc proc /proc
$b mount -t devtmpfs dev /dev
for module in /modules/*; do $b insmod "$module" || exit 1; done
$b mount -t 9p -o ro,trans=virtio,version=9p2000.L,msize=524288,cache=loose host /host || exit 1
$b mount -t tmpfs written /written || exit 1
$b mkdir /written/upper /written/work
$b mount -t overlay -o lowerdir=/host,upperdir=/written/upper,workdir=/written/work root /new || exit 1
$b mount -t tmpfs run /new/run || exit 1
$b mkdir /new/run/guest
$b cp /bin/busybox /guest/* /new/run/guest
$b mount -t proc proc /new/proc
$b mount --move /dev /new/dev
exec $b switch_root /new /bin/sh /run/guest/start
"#;

/// Run in the machine's files: mounts what a Linux system has, starts the command, tells its status, and turns the power
/// off. `@RELEASE@` and `@MODULES@` are the kernel's.
const START: &str = r#"
mount -t sysfs sys /sys
mkdir -p /dev/pts /dev/shm /run/lock /run/tmp /lib/modules/@RELEASE@
mount -t devpts pts /dev/pts
mount -t tmpfs shm /dev/shm
mount -t bpf bpf /sys/fs/bpf
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t tracefs trace /sys/kernel/tracing
mount --bind @MODULES@ /lib/modules/@RELEASE@
ip link set lo up
cd /run/guest
# The ports appear some moments after their driver; what comes before `p1` depends on the order of the devices.
until ports=$(echo /dev/vport*p3) && [ -e "$ports" ]; do sleep 0.01; done
ports=${ports%3}
# A port is opened by one process at a time, and waits for the machine at each write. Pipes do neither.
mkfifo out err
./busybox cat out > "$ports"1 & out=$!
./busybox cat err > "$ports"2 & err=$!
sh ./command < /dev/null > out 2> err
status=$?
# Whatever the command left running would keep the pipes open.
for process in /proc/[0-9]*; do
    process=${process#/proc/}
    case $process in 1|$out|$err) ;; *) kill -9 "$process" 2> /dev/null ;; esac
done
wait $out $err
echo $status > "$ports"3
echo o > /proc/sysrq-trigger
while :; do sleep 1; done
"#;

/// The archive that the kernel starts from, with the script to run.
pub(super) fn initramfs(kernel: &Installed, command: &str) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    for directory in ["bin", "dev", "guest", "host", "modules", "new", "proc", "written"] {
        archive.directory(directory);
    }
    archive.file("bin/busybox", &busybox()?);
    for (index, (name, content)) in modules(kernel)?.into_iter().enumerate() {
        // The shell lists them in the order of their names.
        archive.file(&format!("modules/{index:02}-{name}"), &content);
    }
    let modules = quoted(&kernel.modules.display().to_string());
    let start = START.replace("@RELEASE@", &kernel.release).replace("@MODULES@", &modules);
    archive.file("guest/start", start.as_bytes());
    archive.file("guest/command", command.as_bytes());
    archive.file("init", INIT.as_bytes());
    Ok(archive.finish())
}

/// The machine's busybox, which must run without libraries.
fn busybox() -> Result<Vec<u8>> {
    let path = process::find("busybox").context("busybox is not installed: run `cargo xtask setup`")?;
    let libraries = process::answer(process::command("ldd").arg(&path)).unwrap_or_default();
    ensure!(
        !libraries.contains("=>"),
        "{} is linked with libraries, which a guest does not have when it starts: install Debian's busybox-static in \
         its place",
        path.display()
    );
    read(&path)
}

/// The modules to load, in their order: names and contents.
fn modules(kernel: &Installed) -> Result<Vec<(String, Vec<u8>)>> {
    let text = |name: &str| {
        let path = kernel.modules.join(name);
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
    };
    let (dependencies, builtin) = (text("modules.dep")?, text("modules.builtin")?);
    let files = Modules::new(&dependencies, &builtin).files(MODULES)?;
    let load = |file: &str| {
        let name = file.rsplit('/').next().unwrap_or(file);
        Ok((name.to_owned(), read(&kernel.modules.join(file))?))
    };
    files.into_iter().map(load).collect()
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

/// A word as a shell takes it, whatever is in it.
pub(super) fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_gives_back_what_was_quoted() {
        for word in ["", "plain", "two words", "it's", "$HOME `id` \\ \" *", "line\nbreak"] {
            let mut shell = process::command("sh");
            shell.args(["-c", &format!("printf %s {}", quoted(word))]);
            assert_eq!(process::answer(&mut shell).as_deref(), Some(word));
        }
    }
}
