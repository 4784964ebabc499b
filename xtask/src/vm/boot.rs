//! One run of QEMU: a guest that starts, runs a script, and is gone.

use std::{
    fs::File,
    io::{self, BufRead as _, BufReader, PipeReader, PipeWriter, Read as _, Seek as _, Write as _},
    os::{
        fd::{AsRawFd, BorrowedFd, RawFd},
        unix::process::CommandExt as _,
    },
    process::{Child, Command, Stdio},
    sync::mpsc::{self, RecvTimeoutError},
    thread::{self, JoinHandle},
    time::Instant,
};

use anyhow::{Context as _, Result, anyhow, bail};
use nix::{
    fcntl::{FcntlArg, FdFlag, fcntl},
    sys::{
        memfd::{MFdFlags, memfd_create},
        prctl,
        signal::Signal,
    },
};

use super::{Guest, image, kernel::Installed};
use crate::{process, progress};

/// The program that is the machine's hardware.
const QEMU: &str = "qemu-system-x86_64";
/// How many of the kernel's last lines an error shows.
const LAST_WORDS: usize = 25;

/// Starts a guest, hands over each line that its script prints as it comes, and returns the script's exit status. What
/// the script says on standard error goes to ours.
pub(super) fn boot(
    guest: &Guest,
    kernel: &Installed,
    script: &str,
    mut line: impl FnMut(&str),
) -> Result<i32> {
    let initramfs = in_memory(&image::initramfs(kernel, script)?)?;
    let [output, errors, status, console] = [channel()?, channel()?, channel()?, channel()?];
    let command = qemu(guest, kernel, &[&output.1, &errors.1, &status.1, &console.1]);
    let qemu = Qemu::start(command, initramfs, [output.1, errors.1, status.1, console.1])?;
    let began = Instant::now();
    let (send, receive) = mpsc::channel();
    let output = thread::spawn(move || lines(output.0, |line| send.send(line.to_owned()).is_ok()));
    let errors = thread::spawn(move || {
        lines(errors.0, |line| {
            eprintln!("{line}");
            true
        })
    });
    let status = thread::spawn(move || text(status.0));
    let shown = guest.console;
    let console = thread::spawn(move || {
        let mut text = String::new();
        lines(console.0, |line| {
            if shown {
                eprintln!("{line}");
            }
            text.push_str(line);
            text.push('\n');
            true
        })?;
        Ok(text)
    });
    loop {
        let left = guest.timeout.saturating_sub(began.elapsed());
        match receive.recv_timeout(left) {
            Ok(told) => line(&told),
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {
                drop(qemu);
                bail!(
                    "the guest was ended because its command did not within {}{}",
                    progress::took(guest.timeout),
                    last_words(&joined(console)?)
                );
            }
        }
    }
    // It prints nothing more: it has turned its power off, or is about to.
    qemu.wait()?;
    joined(output)?;
    joined(errors)?;
    let (status, console) = (joined(status)?, joined(console)?);
    status
        .trim()
        .parse()
        .map_err(|_| anyhow!("the guest's kernel ended before the command did{}", last_words(&console)))
}

/// QEMU's command line. The channels are pipes that it inherits: the command's output, its errors, its status, and the
/// kernel's console.
fn qemu(guest: &Guest, kernel: &Installed, channels: &[&PipeWriter; 4]) -> Command {
    let mut qemu = process::command(process::find(QEMU).unwrap_or_else(|| QEMU.into()));
    qemu.args(["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"]);
    // All that the emulation can; less a fifth level of page tables, by which every page walk is longer.
    // QEMU counts each round of a repeated instruction. Memory is filled and copied by bytes where the processor says that it
    // is fast at that (ERMS, FSRM), and clearing a page would then count as 4096 instructions.
    let counting = if guest.icount { ",erms=off,fsrm=off" } else { "" };
    qemu.args(["-cpu", &format!("max,la57=off{counting}"), "-m", &format!("{}M", guest.memory)]);
    // One processor: with more, each a thread, Linux's patching of its own code (jump labels) sometimes fails under
    // emulation, and the kernel with it.
    qemu.args(["-smp", "1", "-accel", "tcg,thread=single"]);
    if guest.icount {
        qemu.args(["-icount", "shift=0,sleep=off"]);
    }
    // A kernel that fails ends at once; random numbers are there from the beginning.
    let verbosity = if guest.console { "" } else { " quiet loglevel=4" };
    let parameters = format!("console=ttyS0 panic=-1 oops=panic random.trust_cpu=on{verbosity}");
    qemu.arg("-kernel").arg(&kernel.image).args(["-initrd", "/proc/self/fd/0", "-append", &parameters]);
    let share = format!("local,id={0},path=/,security_model=none,readonly=on,multidevs=remap", image::SHARE);
    qemu.args(["-fsdev", &share]);
    qemu.args(["-device", &format!("virtio-9p-pci,fsdev={0},mount_tag={0}", image::SHARE)]);
    qemu.args(["-device", "virtio-serial-pci"]);
    let [ports @ .., console] = channels;
    for (port, channel) in image::PORTS.into_iter().zip(ports) {
        qemu.args(["-chardev", &format!("file,id=port{port},path={}", inherited(channel))]);
        qemu.args(["-device", &format!("virtserialport,chardev=port{port},nr={port}")]);
    }
    qemu.args(["-serial", &format!("file:{}", inherited(console))]);
    qemu
}

/// Where the process that inherits a pipe finds it.
fn inherited(pipe: &PipeWriter) -> String {
    format!("/proc/self/fd/{}", pipe.as_raw_fd())
}

/// A running QEMU, which ends when this is dropped, or when this thread ends, however it does.
struct Qemu(Child);

impl Qemu {
    /// Starts it with its standard input and the pipes that it inherits, of which no end stays here.
    fn start(mut command: Command, input: File, pipes: [PipeWriter; 4]) -> Result<Self> {
        let numbers: [RawFd; 4] = pipes.each_ref().map(AsRawFd::as_raw_fd);
        command.stdin(input).stdout(Stdio::null());
        // SAFETY: both are system calls alone, without memory or locks; the pipes are open, since we hold them until the
        // command has started.
        unsafe {
            command.pre_exec(move || {
                prctl::set_pdeathsig(Signal::SIGKILL)?;
                for number in numbers {
                    let pipe = BorrowedFd::borrow_raw(number);
                    fcntl(pipe, FcntlArg::F_SETFD(FdFlag::empty()))?;
                }
                Ok(())
            });
        }
        let child = command
            .spawn()
            .with_context(|| format!("cannot start {QEMU}: `cargo xtask setup` installs it"))?;
        // While we had an end as well, the reading would never end.
        drop(pipes);
        Ok(Self(child))
    }

    /// Waits for its end.
    fn wait(mut self) -> Result<()> {
        let status = self.0.wait().context("cannot wait for QEMU")?;
        if !status.success() {
            bail!("QEMU failed ({status}); what it said stands above");
        }
        Ok(())
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        // It may have ended already; there is nobody to tell otherwise.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A file in memory alone.
fn in_memory(content: &[u8]) -> Result<File> {
    let mut file = File::from(memfd_create("initramfs", MFdFlags::MFD_CLOEXEC).context("no file in memory")?);
    file.write_all(content).and_then(|()| file.rewind()).context("cannot write to a file in memory")?;
    Ok(file)
}

fn channel() -> Result<(PipeReader, PipeWriter)> {
    io::pipe().context("cannot make a pipe")
}

/// Hands over each line until the pipe's end, or until nobody wants more.
fn lines(pipe: PipeReader, mut line: impl FnMut(&str) -> bool) -> Result<()> {
    let mut pipe = BufReader::new(pipe);
    let mut bytes = Vec::new();
    while pipe.read_until(b'\n', &mut bytes).context("cannot read what the guest prints")? > 0 {
        if !line(String::from_utf8_lossy(&bytes).trim_end_matches(['\n', '\r'])) {
            break;
        }
        bytes.clear();
    }
    Ok(())
}

fn text(mut pipe: PipeReader) -> Result<String> {
    let mut bytes = Vec::new();
    pipe.read_to_end(&mut bytes).context("cannot read what the guest's kernel says")?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn joined<T>(thread: JoinHandle<Result<T>>) -> Result<T> {
    thread.join().unwrap_or_else(|_| bail!("a thread that reads from the guest panicked"))
}

/// The end of what the kernel said, for an error's.
fn last_words(console: &str) -> String {
    let lines: Vec<_> = console.lines().filter(|line| !line.trim().is_empty()).collect();
    let shown = lines.get(lines.len().saturating_sub(LAST_WORDS)..).unwrap_or_default();
    if shown.is_empty() {
        return "; its kernel said nothing".to_owned();
    }
    format!("; its kernel's last words:\n  | {}", shown.join("\n  | "))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// A shell in QEMU's place, with its input and its first pipe's other end.
    fn shell(script: &str, input: &str) -> Result<(Qemu, PipeReader)> {
        let [first, second, third, fourth] = [channel()?, channel()?, channel()?, channel()?];
        let mut shell = process::command("sh");
        shell.args(["-c", script, "sh", &inherited(&first.1)]);
        let pipes = [first.1, second.1, third.1, fourth.1];
        Ok((Qemu::start(shell, in_memory(input.as_bytes())?, pipes)?, first.0))
    }

    #[test]
    fn what_is_started_has_its_input_and_its_pipes() -> Result<()> {
        let (qemu, pipe) = shell("cat /proc/self/fd/0 > \"$1\"", "in memory")?;
        assert_eq!(text(pipe)?, "in memory");
        qemu.wait()
    }

    #[test]
    fn what_is_dropped_has_ended() -> Result<()> {
        let (qemu, pipe) = shell("exec sleep 1000", "")?;
        let process = format!("/proc/{}", qemu.0.id());
        assert!(fs::exists(&process)?, "it runs");
        drop(qemu);
        assert!(!fs::exists(&process)?, "it is gone");
        assert_eq!(text(pipe)?, "", "nobody holds its pipes");
        Ok(())
    }

    #[test]
    fn what_fails_is_told() -> Result<()> {
        let (qemu, _pipe) = shell("exit 4", "")?;
        let error = qemu.wait().expect_err("it failed");
        assert!(error.to_string().contains('4'), "{error}");
        Ok(())
    }

    #[test]
    fn the_last_words_are_the_last() {
        let console: String = (1..=60).map(|number| format!("line {number}\r\n\n")).collect();
        let words = last_words(&console);
        assert!(words.ends_with("line 60") && words.contains("line 36\n") && !words.contains("line 35\n"));
        assert!(last_words(" \n").contains("nothing"));
    }
}
