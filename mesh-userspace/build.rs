//! Hands the eBPF object's path to the code, which embeds it.

use std::{env, path::Path};

fn main() {
    let Some(manifest) = env::var_os("CARGO_MANIFEST_DIR") else {
        println!("cargo::error=CARGO_MANIFEST_DIR is not set: build with cargo");
        return;
    };
    let Some(root) = Path::new(&manifest).parent() else {
        println!("cargo::error=this crate lies outside of its workspace");
        return;
    };
    // The agents of the tests of upgrades have objects of their own.
    let name = if env::var_os("CARGO_FEATURE_OTHER_LAYOUT").is_some() {
        "mesh-ebpf-other-layout.o"
    } else if env::var_os("CARGO_FEATURE_OTHER_LAYOUT_BEFORE").is_some() {
        "mesh-ebpf-other-layout-before.o"
    } else {
        "mesh-ebpf.o"
    };
    let object = root.join("target/bpf").join(name);
    // Named before it is looked for: once it appears, this runs again.
    println!("cargo::rerun-if-changed={}", object.display());
    match object.metadata() {
        Ok(_) => println!("cargo::rustc-env=MESH_EBPF_OBJECT={}", object.display()),
        Err(error) => println!(
            "cargo::error=the eBPF object that meshd embeds is not built yet ({}: {error}): run `cargo xtask build` \
             first",
            object.display()
        ),
    }
}
