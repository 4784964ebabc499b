//! The keyring's file: lines of base64, of which the first is in use.

use std::{
    fs::File,
    io::{self, Read},
    os::unix::fs::PermissionsExt,
    path::Path,
};

use mesh_cluster::seal::{MOST_KEYS, Ring, RingFault, Secret};
use zeroize::Zeroizing;

use crate::{
    replace::replace,
    spec::{Fault, Faults, Origin},
};

/// The longest file that is read, in bytes.
const LONGEST: u64 = 64 << 10;

/// Reads a keyring.
///
/// # Errors
/// It cannot be read or others may read it, told at `named_at`, where the configuration names it; or a line of it is
/// wrong, told there.
pub fn read(path: &Path, named_at: &Origin) -> Result<Ring, Faults> {
    let shown = path.display();
    let fault = |sentence: String| Faults::from(Fault::new(named_at.clone(), sentence));
    let unreadable = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => fault(format!(
            "There is no keyring {shown}; make one with `meshctl keys generate` on one node, and copy it to every other."
        )),
        _ => fault(format!(
            "The keyring {shown} cannot be read ({error}); make it a file that meshd may read."
        )),
    };
    let file = File::open(path).map_err(unreadable)?;
    let metadata = file.metadata().map_err(unreadable)?;
    let mode = metadata.permissions().mode();
    if mode & 0o077 != 0 {
        return Err(fault(format!(
            "The keyring {shown} may be read or written by others (mode {:04o}); run `chmod 600 {shown}`, and if they may \
             have read it, make new keys.",
            mode & 0o7777
        )));
    }
    let mut text = Zeroizing::new(String::new());
    file.take(LONGEST + 1).read_to_string(&mut text).map_err(unreadable)?;
    if text.len() as u64 > LONGEST {
        return Err(fault(format!(
            "The keyring {shown} is longer than {} KiB; make sure that it is one.",
            LONGEST >> 10
        )));
    }
    parse(&path.display().to_string(), &text)
}

/// Reads a keyring's text, which is of the file of this name.
///
/// # Errors
/// Every line of it that is wrong.
pub fn parse(name: &str, text: &str) -> Result<Ring, Faults> {
    let mut faults = Faults::default();
    let at = |line: usize, column: usize| Origin::File {
        file: name.into(),
        line: u32::try_from(line).unwrap_or(u32::MAX),
        column: u32::try_from(column).unwrap_or(u32::MAX),
    };
    let mut keys: Vec<(usize, Secret)> = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let written = line.trim();
        if written.is_empty() || written.starts_with('#') {
            continue;
        }
        let column = line.find(written).unwrap_or_default() + 1;
        let place = at(index + 1, column);
        match written.parse::<Secret>() {
            Ok(key) => match keys.iter().find(|(_, there)| there.id() == key.id()) {
                Some((first, _)) => faults.push(Fault::new(
                    place,
                    format!("The key {} stands here a second time (first: line {first}); keep one of them.", key.id()),
                )),
                None => keys.push((index + 1, key)),
            },
            // What stands there may be most of a secret, so that it is not repeated.
            Err(why) => faults.push(Fault::new(
                place,
                format!("The line is no key: {why}; write what `meshctl keys generate` prints, or put # before a comment."),
            )),
        }
    }
    if !faults.is_empty() {
        return Err(faults);
    }
    Ring::new(keys.into_iter().map(|(_, key)| key).collect()).map_err(|why| {
        let sentence = match why {
            RingFault::Empty => {
                "The keyring has no key; write what `meshctl keys generate` prints into it, the same on every node."
                    .to_owned()
            }
            RingFault::Full | RingFault::Twice(_) => {
                format!("The keyring has more than {MOST_KEYS} keys; remove those that no node has in use.")
            }
        };
        Fault::new(at(1, 1), sentence).into()
    })
}

/// A keyring's text.
#[must_use]
pub fn text(ring: &Ring) -> Zeroizing<String> {
    let mut text = Zeroizing::new(
        "# The mesh's keyring. The first key is in use; each of them opens. meshd writes this file when `meshctl keys` changes \
         the keys.\n"
            .to_owned(),
    );
    for key in ring.keys() {
        text.push_str(&format!("# {}\n", key.id()));
        text.push_str(&key.reveal());
        text.push('\n');
    }
    text
}

/// Writes a keyring in one step, for its owner alone.
///
/// # Errors
/// What the system says.
pub(super) fn write(path: &Path, ring: &Ring) -> io::Result<()> {
    replace(path, text(ring).as_bytes())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::agent::testing::Directory;

    const KEY: &str = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";
    const OTHER: &str = "AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI=";

    fn faults(text: &str) -> Vec<String> {
        parse("keyring", text).unwrap_err().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_keyring_is_written_and_read_back() {
        let directory = Directory::new();
        let path = directory.path().join("keyring");
        let ring = parse("keyring", &format!("# A comment.\n\n  {KEY}  \n{OTHER}\n")).unwrap();
        write(&path, &ring).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
        assert_eq!(read(&path, &Origin::default()), Ok(ring));
    }

    #[test]
    fn wrong_lines_are_told_with_their_place_and_never_repeated() {
        let told = faults(&format!("{KEY}\n  secret!\n{}\n{KEY}\n", &KEY[..20]));
        assert_eq!(told.len(), 3, "{told:?}");
        assert!(
            told[0].starts_with("keyring:2:3: The line is no key: it is not in base64; write"),
            "{told:?}"
        );
        assert!(
            told[1]
                .starts_with("keyring:3:1: The line is no key: it stands for 15 bytes, and a key has 32; "),
            "{told:?}"
        );
        assert!(told[2].contains("stands here a second time (first: line 1)"), "{told:?}");
        assert!(told.iter().all(|told| !told.contains("secret!") && !told.contains("AQEB")), "{told:?}");
        assert!(faults("# nothing\n")[0].starts_with("keyring:1:1: The keyring has no key; write what"));
    }

    #[test]
    fn what_cannot_be_used_is_told_where_the_configuration_names_it() {
        let directory = Directory::new();
        let path = directory.path().join("keyring");
        let at = Origin::File { file: "mesh.yaml".into(), line: 4, column: 12 };
        let told = || read(&path, &at).unwrap_err().to_string();
        assert!(told().starts_with("mesh.yaml:4:12: There is no keyring"), "{}", told());
        fs::write(&path, KEY).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(
            told().contains("may be read or written by others (mode 0644); run `chmod 600"),
            "{}",
            told()
        );
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        assert!(read(&path, &at).is_ok());
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
        assert!(told().contains("cannot be read"), "{}", told());
    }
}
