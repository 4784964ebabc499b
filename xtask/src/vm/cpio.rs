//! Archives in cpio's format `newc`, which the kernel unpacks as its first root directory.

/// The bits of a mode that say directory, and regular file: see inode(7).
const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
/// The name of the entry that ends an archive.
const TRAILER: &str = "TRAILER!!!";

/// An archive that grows.
#[derive(Default)]
pub(super) struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

impl Archive {
    /// Adds a directory; those above it must be there.
    pub(super) fn directory(&mut self, path: &str) {
        self.entry(path, DIRECTORY | 0o755, 2, &[]);
    }

    /// Adds a file that may be executed; the directory that it stands in must be there.
    pub(super) fn file(&mut self, path: &str, content: &[u8]) {
        self.entry(path, REGULAR | 0o755, 1, content);
    }

    /// The whole archive.
    pub(super) fn finish(mut self) -> Vec<u8> {
        self.entry(TRAILER, 0, 1, &[]);
        self.bytes
    }

    /// One entry: thirteen numbers of eight hexadecimal digits after the magic one, its name, its content (see the
    /// kernel's Documentation/driver-api/early-userspace/buffer-format.rst). Everything belongs to root, and is of 1970,
    /// so that the same files make the same archive.
    fn entry(&mut self, path: &str, mode: u32, links: u32, content: &[u8]) {
        self.entries += 1;
        // A file of 4 GiB is none for memory; it would show itself as an archive that the kernel refuses.
        let size = u32::try_from(content.len()).unwrap_or(u32::MAX);
        let name = u32::try_from(path.len() + 1).unwrap_or(u32::MAX);
        let (owner, time, device) = (0, 0, 0);
        let numbers = [
            self.entries,
            mode,
            owner,
            owner,
            links,
            time,
            size,
            device,
            device,
            device,
            device,
            name,
            // A checksum, which this format does not use.
            0,
        ];
        self.bytes.extend_from_slice(b"070701");
        for number in numbers {
            self.bytes.extend_from_slice(format!("{number:08X}").as_bytes());
        }
        self.bytes.extend_from_slice(path.as_bytes());
        self.bytes.push(0);
        self.align();
        self.bytes.extend_from_slice(content);
        self.align();
    }

    /// Names and contents end at multiples of four bytes.
    fn align(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The entries of an archive, read by what the format's description says of it: name, mode, content.
    fn entries(mut archive: &[u8]) -> Vec<(String, u32, Vec<u8>)> {
        let mut entries = Vec::new();
        let mut taken = 0_usize;
        let mut take = |length: usize, aligned: bool| {
            let (part, rest) = archive.split_at(length);
            archive = rest;
            taken += length;
            if aligned {
                let padding = taken.next_multiple_of(4) - taken;
                archive = &archive[padding..];
                taken += padding;
            }
            part.to_vec()
        };
        loop {
            let header = String::from_utf8(take(110, false)).expect("a header is text");
            assert!(header.starts_with("070701"), "{header}");
            let number =
                |index: usize| u32::from_str_radix(&header[6 + 8 * index..14 + 8 * index], 16).expect("hex");
            let name = take(number(11) as usize, true);
            let name = String::from_utf8(name).expect("a name").trim_end_matches('\0').to_owned();
            let content = take(number(6) as usize, true);
            if name == TRAILER {
                assert!(archive.is_empty(), "nothing follows the trailer");
                return entries;
            }
            entries.push((name, number(1), content));
        }
    }

    #[test]
    fn what_was_put_in_is_there() {
        let mut archive = Archive::default();
        archive.directory("bin");
        archive.file("bin/one", b"1");
        archive.file("bin/four", b"4444");
        archive.file("init", b"#!/bin/sh\n");
        assert_eq!(
            entries(&archive.finish()),
            [
                ("bin".to_owned(), 0o040_755, Vec::new()),
                ("bin/one".to_owned(), 0o100_755, b"1".to_vec()),
                ("bin/four".to_owned(), 0o100_755, b"4444".to_vec()),
                ("init".to_owned(), 0o100_755, b"#!/bin/sh\n".to_vec()),
            ]
        );
    }

    #[test]
    fn entries_have_numbers_of_their_own() {
        // The kernel takes two files of one number for links to one file.
        let mut archive = Archive::default();
        archive.file("a", b"");
        archive.file("b", b"");
        let bytes = archive.finish();
        let first = &bytes[6..14];
        let second = &bytes[112 + 6..112 + 14];
        assert_ne!(first, second);
    }
}
