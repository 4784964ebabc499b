//! The kernel proper out of Debian's compressed image, so that an emulated processor need not decompress it at each start.
//!
//! See the kernel's Documentation/arch/x86/boot.rst for the header.

use std::{
    io::Write as _,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};

use crate::process;

/// Offsets in the image: the number of sectors of its first part less one, `HdrS`, and where behind that part the
/// compressed kernel begins, and its length.
const SECTORS: usize = 0x1f1;
const MAGIC: usize = 0x202;
const PAYLOAD: usize = 0x248;
const LENGTH: usize = 0x24c;

/// How Debian's kernels are compressed: by what a compressed file begins with, and the program that decompresses it.
const COMPRESSIONS: [(&[u8], &str); 2] = [(b"\xfd7zXZ\0", "xz"), (b"\x28\xb5\x2f\xfd", "zstd")];

/// The kernel, an ELF file.
pub(super) fn kernel(image: &[u8]) -> Result<Vec<u8>> {
    let compressed = payload(image).context("this is no kernel image for x86")?;
    let (_, program) = COMPRESSIONS
        .iter()
        .find(|(begin, _)| compressed.starts_with(begin))
        .context("the kernel is compressed neither by xz nor by zstd")?;
    let mut command = process::command(program);
    command.args(["--decompress", "--stdout"]);
    let kernel =
        through(command, compressed).with_context(|| format!("cannot decompress it by {program}"))?;
    ensure!(kernel.starts_with(b"\x7fELF"), "what the image holds is no ELF file");
    Ok(kernel)
}

/// The compressed kernel in an image. The kernel's build puts four bytes behind it: its length when decompressed.
fn payload(image: &[u8]) -> Option<&[u8]> {
    let word = |at: usize| Some(u32::from_le_bytes(image.get(at..at + 4)?.try_into().ok()?) as usize);
    image.get(MAGIC..)?.strip_prefix(b"HdrS")?;
    let begin = (usize::from(*image.get(SECTORS)?) + 1) * 512 + word(PAYLOAD)?;
    image.get(begin..begin + word(LENGTH)?.checked_sub(4)?)
}

/// What a command makes of its input.
fn through(mut command: Command, input: &[u8]) -> Result<Vec<u8>> {
    let shown = process::shown(&command);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start `{shown}`"))?;
    let stdin = child.stdin.take();
    let output = std::thread::scope(|scope| {
        // If it wants no more, its status says why.
        scope.spawn(move || stdin.map(|mut stdin| stdin.write_all(input)));
        child.wait_with_output()
    });
    let output = output.with_context(|| format!("cannot read what `{shown}` makes"))?;
    ensure!(output.status.success(), "`{shown}` failed ({})", output.status);
    Ok(output.stdout)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An image with a first part of three sectors and a kernel behind ten bytes.
    fn image(kernel: &[u8]) -> Vec<u8> {
        let mut image = vec![0; 3 * 512 + 10];
        image[SECTORS] = 2;
        image[MAGIC..MAGIC + 4].copy_from_slice(b"HdrS");
        image[PAYLOAD..PAYLOAD + 4].copy_from_slice(&10_u32.to_le_bytes());
        let length = u32::try_from(kernel.len() + 4).expect("a short one");
        image[LENGTH..LENGTH + 4].copy_from_slice(&length.to_le_bytes());
        image.extend_from_slice(kernel);
        image.extend_from_slice(b"sizeand what follows");
        image
    }

    #[test]
    fn the_kernel_is_decompressed() -> Result<()> {
        let mut xz = process::command("xz");
        xz.arg("--stdout");
        let compressed = through(xz, b"\x7fELF and more")?;
        assert_eq!(kernel(&image(&compressed))?, b"\x7fELF and more");
        Ok(())
    }

    #[test]
    fn what_is_no_kernel_is_refused() {
        assert!(kernel(b"#!/bin/sh").is_err());
        let error = kernel(&image(b"plain")).expect_err("not compressed");
        assert!(error.to_string().contains("zstd"), "{error}");
    }
}
