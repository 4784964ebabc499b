//! What the socket hooks remember.

use super::{Address, pod::pod};

/// A socket that was sent to the host alias instead of where it dialled.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct DialledKey {
    /// The socket's cookie.
    pub cookie: u64,
    /// The published port.
    pub port: [u8; 2],
    /// The [`Family`](super::Family) of the alias: 4 or 6.
    pub family: u8,
    /// Zero.
    pub reserved: [u8; 5],
}

/// Where it dialled.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dialled {
    /// The address; the port is the same.
    pub address: Address,
}

pod!(DialledKey, Dialled);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_padding() {
        assert_eq!(size_of::<DialledKey>(), 8 + 2 + 1 + 5);
        assert_eq!(size_of::<Dialled>(), 16);
    }
}
