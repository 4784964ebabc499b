//! Installing what is missing: by Debian's apt, by cargo and by rustup.

use std::{
    env,
    ffi::OsString,
    fs, iter,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use super::needs::{LINKER_VERSION, LLVM, Mend, Missing};
use crate::{process, progress, project};

/// Debian's compiler and the source of its `core`.
const COMPILER_PACKAGES: &[&str] = &["rustc-web", "rust-web-src"];
/// What bpf-linker is built with.
const LINKER_PACKAGES: &[&str] = &["llvm-22-dev", "libpolly-22-dev", "libzstd-dev", "zlib1g-dev", "g++"];
/// Where Debian keeps LLVM's programs of that version: `llvm-config` is looked for there first.
const LLVM_PROGRAMS: &str = "/usr/lib/llvm-22/bin";
/// The oldest Debian whose packages will do.
const DEBIAN_MINIMUM: u32 = 12;

/// Runs apt-get with its arguments while a policy forbids that services be started, whatever policy stands; then puts
/// things back as they were, also when interrupted. A shell does it, which outlives us; one at a time.
const APT_WITHOUT_SERVICES: &str = r#"
policy=/usr/sbin/policy-rc.d
aside=$policy.mesh-setup
exec 9> /run/lock/mesh-setup
flock 9
restore() { rm -f "$policy"; if [ -e "$aside" ]; then mv "$aside" "$policy"; fi; }
trap restore EXIT
trap 'exit 130' INT TERM HUP
# What a killed run left.
if grep -qs 'While mesh sets up' "$policy"; then rm -f "$policy"; fi
if [ -e "$policy" ] && [ ! -e "$aside" ]; then mv "$policy" "$aside"; fi
printf '#!/bin/sh\n# While mesh sets up: no service is started.\nexit 101\n' > "$policy"
chmod 755 "$policy"
apt-get "$@"
"#;

/// Whether all that is missing can be installed here by us.
pub(super) fn possible(missing: &[Missing]) -> bool {
    packages(missing).is_empty() || (process::is_root() && is_debian())
}

/// Installs all of it.
pub(super) fn install(missing: &[Missing]) -> Result<()> {
    let packages = packages(missing);
    if !packages.is_empty() {
        progress::step("reading Debian's package lists", apt(&["update"]))
            .context("apt cannot read its package lists")?;
        let mut words = vec!["install", "--yes", "--no-install-recommends"];
        words.extend(&packages);
        progress::step(&format!("installing packages by apt ({})", packages.len()), apt(&words)).context(
            "apt cannot install the packages; the compiler and LLVM come from Debian's security archive, which must \
             be among apt's sources (bookworm-security for Debian 12)",
        )?;
        if packages.contains(&"nginx-light") {
            disable("nginx")?;
        }
    }
    for one in missing {
        match one.mend {
            Mend::Linker => progress::step("building bpf-linker (some minutes)", linker_command()?)?,
            Mend::Component(component) => {
                let mut rustup = process::command("rustup");
                rustup.args(["component", "add", component]);
                progress::step(&format!("adding rustup's component {component}"), rustup)?;
            }
            Mend::Packages(_) | Mend::Compiler => {}
        }
    }
    Ok(())
}

/// What a person would type to install all of it.
pub(super) fn commands(missing: &[Missing]) -> Vec<String> {
    commands_on(is_debian(), missing, &packages(missing))
}

fn commands_on(debian: bool, missing: &[Missing], packages: &[&str]) -> Vec<String> {
    let mut commands = Vec::new();
    if debian && !packages.is_empty() {
        commands.push(format!(
            "apt-get update && apt-get install --no-install-recommends {}   # as root",
            packages.join(" ")
        ));
    }
    for one in missing {
        match &one.mend {
            Mend::Linker if debian => {
                commands.push(format!("PATH={LLVM_PROGRAMS}:$PATH cargo {}", linker_arguments().join(" ")));
            }
            Mend::Linker => commands.push(format!(
                "cargo {}   # with LLVM {LLVM}'s development files, its llvm-config first on PATH",
                linker_arguments().join(" ")
            )),
            Mend::Compiler if !debian => {
                commands.push("rustup toolchain install nightly --component rust-src".to_owned());
            }
            Mend::Component(component) => commands.push(format!("rustup component add {component}")),
            Mend::Packages(packages) if !debian => commands.push(format!(
                "your system's package of `{}` (Debian calls it {})",
                one.what,
                packages.join(" ")
            )),
            Mend::Packages(_) | Mend::Compiler => {}
        }
    }
    commands
}

/// Debian's packages that provide what is missing.
fn packages(missing: &[Missing]) -> Vec<&'static str> {
    let mut packages = Vec::new();
    for one in missing {
        match one.mend {
            Mend::Packages(names) => packages.extend_from_slice(names),
            // Asked for even if it is here: it may be too old.
            Mend::Compiler => packages.extend_from_slice(COMPILER_PACKAGES),
            Mend::Linker => packages.extend(LINKER_PACKAGES.iter().filter(|package| !is_installed(package))),
            Mend::Component(_) => {}
        }
    }
    packages
}

/// Whether dpkg knows the package as installed.
fn is_installed(package: &str) -> bool {
    let mut query = process::command("dpkg-query");
    query.args(["--show", "--showformat=${db:Status-Status}", package]);
    process::answer(&mut query).is_some_and(|status| status == "installed")
}

/// apt-get without questions, patient if another one runs, and starting no services.
fn apt(arguments: &[&str]) -> Command {
    let mut command = process::command("sh");
    command
        .env("DEBIAN_FRONTEND", "noninteractive")
        .args(["-c", APT_WITHOUT_SERVICES, "apt-get"])
        .args(["--quiet", "-oDPkg::Lock::Timeout=600", "-oDpkg::Use-Pty=0", "-oAcquire::Retries=3"])
        .args(arguments);
    command
}

/// Keeps a service that apt brought from starting with the machine, under systemd as under init.
fn disable(service: &str) -> Result<()> {
    let mut command = process::command("/usr/sbin/update-rc.d");
    command.args([service, "disable"]);
    progress::step(&format!("keeping {service} from starting with the machine"), command)
}

fn linker_arguments() -> [String; 7] {
    [
        "install".to_owned(),
        "bpf-linker".to_owned(),
        format!("--version={LINKER_VERSION}"),
        "--locked".to_owned(),
        "--force".to_owned(),
        "--no-default-features".to_owned(),
        format!("--features=llvm-{LLVM}"),
    ]
}

/// `cargo install bpf-linker`, with Debian's LLVM first.
fn linker_command() -> Result<Command> {
    let directories = env::var_os("PATH").unwrap_or_default();
    let path: OsString =
        env::join_paths(iter::once(PathBuf::from(LLVM_PROGRAMS)).chain(env::split_paths(&directories)))
            .context("PATH has an entry that cannot stand there")?;
    let mut command = process::command(project::cargo());
    // A RUSTFLAGS of ours, say, is not for other people's programs; nor is our target directory.
    command.current_dir("/").env("PATH", path).env_remove("CARGO_TARGET_DIR").args(linker_arguments());
    Ok(command)
}

/// Whether this is a Debian whose apt has what we need.
fn is_debian() -> bool {
    let Ok(release) = fs::read_to_string("/etc/os-release") else { return false };
    Path::new("/usr/bin/apt-get").exists() && is_debian_release(&release)
}

fn is_debian_release(release: &str) -> bool {
    let field = |label: &str| {
        release.lines().find_map(|line| line.strip_prefix(label)).map(|value| value.trim_matches('"'))
    };
    let version = field("VERSION_ID=").and_then(|version| version.parse::<u32>().ok());
    field("ID=") == Some("debian") && version.is_some_and(|version| version >= DEBIAN_MINIMUM)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lacking() -> Vec<Missing> {
        [Mend::Compiler, Mend::Linker, Mend::Packages(&["nginx-light"]), Mend::Component("clippy")]
            .map(|mend| Missing { what: "something".to_owned(), mend })
            .into()
    }

    #[test]
    fn knows_the_debians_that_will_do() {
        assert!(is_debian_release(
            "PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nVERSION_ID=\"12\"\nID=debian\n"
        ));
        assert!(is_debian_release("ID=debian\nVERSION_ID=\"13\"\n"));
        assert!(!is_debian_release("ID=debian\nVERSION_ID=\"11\"\n"));
        assert!(!is_debian_release("ID=ubuntu\nVERSION_ID=\"24.04\"\n"));
        assert!(!is_debian_release("ID=debian\nPRETTY_NAME=\"Debian GNU/Linux trixie/sid\"\n"));
    }

    #[test]
    fn every_lack_has_a_command_on_every_system() {
        let lacking = lacking();
        let debian = commands_on(true, &lacking, &packages(&lacking)).join("\n");
        for word in
            ["rustc-web", "cargo install bpf-linker --version=0.13.0", "nginx-light", "component add clippy"]
        {
            assert!(debian.contains(word), "{word} is not in:\n{debian}");
        }
        let other = commands_on(false, &lacking, &packages(&lacking));
        assert_eq!(other.len(), lacking.len(), "{other:?}");
        assert!(!other.join("\n").contains("apt-get"), "{other:?}");
    }

    #[test]
    fn what_apt_provides_is_asked_of_apt_alone() {
        let packages = packages(&lacking());
        assert!(packages.contains(&"nginx-light") && packages.contains(&"rustc-web"), "{packages:?}");
        assert!(
            super::packages(&[Missing { what: String::new(), mend: Mend::Component("clippy") }]).is_empty()
        );
        assert!(!is_installed("no-package-has-this-name"));
    }
}
