//! Debian's kernels, from its packages, under `target/vm`.

use std::{
    env, fs,
    io::ErrorKind,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail, ensure};

use super::bzimage;
use crate::{process, progress, project};

/// Debian 12's name, of whose archive the kernels are, whatever this machine runs.
const RELEASE: &str = "bookworm";
/// The kernel's file among what is unpacked.
const IMAGE: &str = "vmlinux";
/// The package that depends on the newest kernel.
const NEWEST: &str = "linux-image-amd64";
/// What no guest of ours has devices for, which is most of a kernel's modules by size.
const LEFT_OUT: &[&str] = &[
    "./lib/modules/*/kernel/sound/*",
    "./lib/modules/*/kernel/drivers/gpu/*",
    "./lib/modules/*/kernel/drivers/media/*",
    "./lib/modules/*/kernel/drivers/infiniband/*",
    "./lib/modules/*/kernel/drivers/net/ethernet/*",
    "./lib/modules/*/kernel/drivers/net/wireless/*",
    "./lib/modules/*/kernel/drivers/scsi/*",
    "./lib/modules/*/kernel/drivers/staging/*",
    "./lib/modules/*/kernel/drivers/usb/*",
];

/// A kernel that Debian 12 has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Kernel {
    /// Debian 12's own
    #[value(name = "6.1")]
    V6_1,
    /// From Debian 12's backports
    #[value(name = "6.12")]
    V6_12,
}

/// A kernel that stands on the disk.
pub(super) struct Installed {
    /// The kernel, uncompressed.
    pub(super) image: PathBuf,
    /// Its modules, uncompressed, with depmod's index.
    pub(super) modules: PathBuf,
    /// What `uname -r` says under it.
    pub(super) release: String,
}

impl Kernel {
    /// All of them.
    pub(crate) const ALL: [Self; 2] = [Self::V6_1, Self::V6_12];

    /// Its version's first numbers, `6.1`.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::V6_1 => "6.1",
            Self::V6_12 => "6.12",
        }
    }

    /// The suite of Debian's archive to ask for it, if it is none that apt takes by itself.
    const fn suite(self) -> Option<&'static str> {
        match self {
            Self::V6_1 => None,
            Self::V6_12 => Some("bookworm-backports"),
        }
    }

    /// The kernel; fetched from Debian's archive unless it is there. It stays until its directory is deleted.
    pub(super) fn installed(self) -> Result<Installed> {
        ensure!(
            env::consts::ARCH == "x86_64",
            "`cargo xtask vm` emulates this machine's own processor, and knows x86_64 alone so far; this is {}",
            env::consts::ARCH
        );
        let directory = home().join(self.name());
        if !directory.exists() {
            self.fetch(&directory)?;
        }
        let modules = directory.join("lib/modules");
        let release =
            only_entry(&modules).with_context(|| format!("{} is damaged: delete it", directory.display()))?;
        Ok(Installed { image: directory.join(IMAGE), modules: modules.join(&release), release })
    }

    /// Downloads the package, and unpacks what a guest needs of it.
    fn fetch(self, directory: &Path) -> Result<()> {
        let apt = Apt::new()?;
        let package = apt.newest_kernel(self.suite())?;
        ensure!(
            package.starts_with(&format!("linux-image-{}.", self.name())),
            "the newest kernel of Debian's {} is {package}, not {}",
            self.suite().unwrap_or(RELEASE),
            self.name()
        );
        // Unpacked beside and renamed, so that nobody finds half of it.
        let fresh = home().join(format!("{}.{}", self.name(), std::process::id()));
        fs::create_dir_all(&fresh).with_context(|| format!("cannot make {}", fresh.display()))?;
        let made = apt.download(&package, &fresh).and_then(|()| unpack(&fresh));
        if made.is_err() {
            // Its own error says more than one of tidying up.
            let _ = fs::remove_dir_all(&fresh);
        }
        made.with_context(|| format!("cannot unpack Debian's {package}"))?;
        match fs::rename(&fresh, directory) {
            // Another one was as fast.
            Err(error) if error.kind() == ErrorKind::DirectoryNotEmpty => Ok(fs::remove_dir_all(&fresh)?),
            renamed => renamed.with_context(|| format!("cannot make {}", directory.display())),
        }
    }
}

/// Where everything of the virtual machines is.
fn home() -> PathBuf {
    project::target().join("vm")
}

/// Unpacks the package in a directory, there: the kernel and its modules, ready to be loaded.
fn unpack(directory: &Path) -> Result<()> {
    // Decompressed once here, and not at each load by an emulated processor.
    let excluded: String = LEFT_OUT.iter().map(|pattern| format!(" --exclude='{pattern}'")).collect();
    let script = format!(
        "set -e\n\
         dpkg-deb --fsys-tarfile ./*.deb | tar --extract --wildcards{excluded} ./boot ./lib/modules\n\
         rm -f ./*.deb\n\
         find lib/modules -name '*.ko.xz' -print0 | xargs -0 --no-run-if-empty xz --decompress\n\
         depmod --basedir . \"$(ls lib/modules)\"\n"
    );
    let mut shell = process::command("sh");
    // depmod is root's, and so not on everybody's path.
    let path = format!("{}:/usr/sbin:/sbin", env::var("PATH").unwrap_or_default());
    shell.current_dir(directory).env("PATH", path).args(["-c", &script]);
    progress::step("unpacking it", shell)?;
    let release = only_entry(&directory.join("lib/modules"))?;
    let compressed = directory.join(format!("boot/vmlinuz-{release}"));
    let image = fs::read(&compressed).with_context(|| format!("cannot read {}", compressed.display()))?;
    let path = directory.join(IMAGE);
    fs::write(&path, bzimage::kernel(&image)?).with_context(|| format!("cannot write {}", path.display()))
}

/// The name of the only entry of a directory.
fn only_entry(directory: &Path) -> Result<String> {
    let entries: Vec<_> = fs::read_dir(directory)
        .and_then(Iterator::collect)
        .with_context(|| format!("cannot read {}", directory.display()))?;
    let [entry] = entries.as_slice() else {
        bail!("{} should have one entry, and has {}", directory.display(), entries.len());
    };
    Ok(entry.file_name().to_string_lossy().into_owned())
}

/// An apt of our own, which knows Debian 12's archive and its backports, and whose lists and caches are under `target/vm`:
/// the machine's is left as it is. The archive's address is taken from the machine's.
struct Apt {
    directory: PathBuf,
}

impl Apt {
    fn new() -> Result<Self> {
        let directory = home().join("apt");
        for part in ["lists/partial", "cache/archives/partial"] {
            let path = directory.join(part);
            fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        }
        let mut targets = process::command("apt-get");
        targets.args(["indextargets", "--format", "$(REPO_URI) $(RELEASE)", "Created-By: Packages"]);
        let targets = process::answer(&mut targets)
            .context("apt tells nothing of its sources: Debian's kernels come from its archive by apt")?;
        let path = directory.join("sources.list");
        fs::write(&path, sources(&targets)?).with_context(|| format!("cannot write {}", path.display()))?;
        let apt = Self { directory };
        let mut update = apt.command("apt-get");
        update.args(["update", "-oAcquire::Retries=3"]);
        progress::step("reading the lists of Debian's kernels", update)?;
        Ok(apt)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = process::command(program);
        let option = |name: &str, path: &str| format!("-o{name}={}", self.directory.join(path).display());
        command
            .arg(option("Dir::Etc::SourceList", "sources.list"))
            .arg("-oDir::Etc::SourceParts=/dev/null")
            .arg(option("Dir::State::Lists", "lists"))
            .arg(option("Dir::Cache", "cache"))
            .args(["--quiet", "-oAcquire::Languages=none"])
            // The user `_apt`, as whom root's apt downloads otherwise, may not write here.
            .arg("-oAPT::Sandbox::User=root");
        command
    }

    /// The package of the newest kernel of a suite, or of those that apt takes by itself.
    fn newest_kernel(&self, suite: Option<&str>) -> Result<String> {
        let mut depends = self.command("apt-cache");
        depends.args(suite.map(|suite| format!("--target-release={suite}"))).args(["depends", NEWEST]);
        let text = process::answer(&mut depends).unwrap_or_default();
        let package = text.lines().find_map(|line| line.trim().strip_prefix("Depends: linux-image-"));
        let package =
            package.with_context(|| format!("Debian's {} has no {NEWEST}", suite.unwrap_or(RELEASE)))?;
        Ok(format!("linux-image-{package}"))
    }

    /// Downloads a package into a directory.
    fn download(&self, package: &str, directory: &Path) -> Result<()> {
        let mut download = self.command("apt-get");
        download.current_dir(directory).args(["download", "-oAcquire::Retries=3", package]);
        progress::step(&format!("downloading Debian's {package}"), download)
    }
}

/// Debian 12's archive, its backports and, if the machine has it, its security archive, by what apt tells of the
/// machine's sources: lines of an address and a suite.
fn sources(targets: &str) -> Result<String> {
    let suites = || targets.lines().filter_map(|line| line.split_once(' '));
    let is_release =
        |suite: &str| !suite.is_empty() && suite.chars().all(|letter| letter.is_ascii_lowercase());
    let archive = suites()
        .find(|(address, suite)| is_release(suite) && address.trim_end_matches('/').ends_with("/debian"));
    let (archive, _) = archive.context("none of apt's sources is Debian's archive, which has the kernels")?;
    let mut lines = vec![(archive, RELEASE.to_owned()), (archive, format!("{RELEASE}-backports"))];
    if let Some((security, _)) = suites().find(|(_, suite)| suite.ends_with("-security")) {
        lines.push((security, format!("{RELEASE}-security")));
    }
    let keys = "signed-by=/usr/share/keyrings/debian-archive-keyring.gpg";
    Ok(lines.iter().map(|(address, suite)| format!("deb [{keys}] {address} {suite} main\n")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_archive_is_the_machines() -> Result<()> {
        let targets = "http://packages.invalid/tool stable\n\
                       http://mirror.invalid/debian/ trixie\n\
                       http://mirror.invalid/debian/ trixie-updates\n\
                       http://safe.invalid/debian-security/ trixie-security\n";
        let text = sources(targets)?;
        let told: Vec<_> =
            text.lines().filter_map(|line| line.split_once("] ")).map(|(_, told)| told).collect();
        assert_eq!(
            told,
            [
                "http://mirror.invalid/debian/ bookworm main",
                "http://mirror.invalid/debian/ bookworm-backports main",
                "http://safe.invalid/debian-security/ bookworm-security main",
            ]
        );
        Ok(())
    }

    #[test]
    fn without_debians_archive_there_are_no_kernels() {
        let error = sources("http://packages.invalid/tool stable\n").expect_err("no archive");
        assert!(error.to_string().contains("Debian"), "{error}");
    }
}
