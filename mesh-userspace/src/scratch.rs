//! Network namespaces for tests.

use std::{
    path::Path,
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
};

use crate::links::{Links, Namespace};

/// A namespace that goes with the test.
pub(crate) struct Scratch(pub(crate) String);

impl Scratch {
    pub(crate) fn new(what: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name =
            format!("meshlinks-{}-{}-{what}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        Self::named(&name)
    }

    /// One of this very name.
    pub(crate) fn named(name: &str) -> Self {
        run(&["netns", "add", name]);
        let scratch = Self(name.to_owned());
        scratch.ip(&["link", "set", "lo", "up"]);
        scratch
    }

    /// `ip -n NAMESPACE ARGUMENTS…`.
    pub(crate) fn ip(&self, arguments: &[&str]) -> String {
        run(&[&["-n", &self.0], arguments].concat())
    }

    pub(crate) fn sysctl(&self, setting: &str) -> String {
        let path = Path::new("/proc/sys/net").join(setting);
        self.namespace().run_blocking(|| std::fs::read_to_string(path)).unwrap().unwrap().trim().to_owned()
    }

    pub(crate) fn namespace(&self) -> Namespace {
        Namespace::open(Path::new(&self.0)).unwrap()
    }

    pub(crate) async fn links(&self) -> Links {
        Links::of(self.namespace()).await.unwrap()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.0]).status();
    }
}

/// `ip ARGUMENTS…`.
pub(crate) fn run(arguments: &[&str]) -> String {
    let output = Command::new("ip").args(arguments).output().expect("the tests need iproute2");
    assert!(
        output.status.success(),
        "ip {arguments:?} (as root?): {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}
