//! The memory that an interpreted program sees: regions that lie far apart, so that no pointer strays from one into another.

use anyhow::{Context as _, Result};

/// Everything that a program may point at.
#[derive(Default)]
pub(super) struct Memory {
    regions: Vec<Vec<u8>>,
}

impl Memory {
    /// Takes bytes in, and says where they lie.
    pub(super) fn add(&mut self, bytes: Vec<u8>) -> u64 {
        self.regions.push(bytes);
        (self.regions.len() as u64) << 32
    }

    /// So many bytes.
    pub(super) fn bytes(&self, at: u64, length: usize) -> Result<&[u8]> {
        let found =
            usize::try_from(at >> 32).ok().and_then(|region| self.regions.get(region.checked_sub(1)?));
        let start = (at & 0xffff_ffff) as usize;
        found
            .and_then(|region| region.get(start..start + length))
            .with_context(|| format!("nothing lies at {at:#x}"))
    }

    /// So many bytes, to be changed.
    pub(super) fn bytes_mut(&mut self, at: u64, length: usize) -> Result<&mut [u8]> {
        let region = usize::try_from(at >> 32).ok().and_then(|region| region.checked_sub(1));
        let found = region.and_then(|region| self.regions.get_mut(region));
        let start = (at & 0xffff_ffff) as usize;
        found
            .and_then(|region| region.get_mut(start..start + length))
            .with_context(|| format!("nothing lies at {at:#x}"))
    }

    /// A number of one to eight bytes.
    pub(super) fn load(&self, at: u64, length: usize) -> Result<u64> {
        let mut word = [0; 8];
        word.get_mut(..length)
            .context("a longer number than there is")?
            .copy_from_slice(self.bytes(at, length)?);
        Ok(u64::from_le_bytes(word))
    }

    /// Writes the last bytes of a number.
    pub(super) fn store(&mut self, at: u64, length: usize, value: u64) -> Result<()> {
        let word = value.to_le_bytes();
        self.bytes_mut(at, length)?
            .copy_from_slice(word.get(..length).context("a longer number than there is")?);
        Ok(())
    }
}
