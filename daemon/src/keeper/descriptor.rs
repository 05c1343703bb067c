//! An owned descriptor for one that is known by its number only.
//!
//! The terminal crate lends the master of a terminal as a bare number. The keeper polls it, sets
//! it non-blocking and reads its mode, all of which take a descriptor that is owned or borrowed,
//! and to make either of a number is `unsafe`. So the keeper sends the number to itself: the
//! kernel reads a descriptor out of a message to a socket and puts a new one, for the same open
//! terminal, into this process on arrival. That one is owned from the start.

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

/// A new descriptor for what `number` stands for, closed on exec. Whoever owns `number` must keep
/// it open during the call, and may close it afterwards.
///
/// # Errors
/// `number` stands for nothing, or no descriptor is left.
pub(super) fn owned(number: RawFd) -> io::Result<OwnedFd> {
    let (sender, receiver) = UnixStream::pair()?;
    // a stream carries descriptors only along with at least one byte
    let payload = [IoSlice::new(&[0])];
    let rights = [ControlMessage::ScmRights(&[number])];
    sendmsg::<()>(sender.as_raw_fd(), &payload, &rights, MsgFlags::empty(), None)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut arrived = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let into = &mut [IoSliceMut::new(&mut byte)];
    recvmsg(&receiver, into, &mut arrived, RecvFlags::CMSG_CLOEXEC)?;
    let found = arrived.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    // the kernel drops what does not fit under this process's limit
    found.ok_or_else(|| io::Error::other("no descriptor is left for a terminal"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::fcntl::{FcntlArg, FdFlag, fcntl};
    use std::fs;
    use std::io::{Read, Write};

    #[test]
    fn the_new_descriptor_is_another_one_for_the_same_thing_and_outlives_the_first() {
        let (mut reader, writer) = io::pipe().unwrap();
        let number = writer.as_raw_fd();
        let mine = owned(number).unwrap();
        assert_ne!(mine.as_raw_fd(), number);
        let flags = FdFlag::from_bits_retain(fcntl(&mine, FcntlArg::F_GETFD).unwrap());
        assert!(flags.contains(FdFlag::FD_CLOEXEC));
        drop(writer);
        let mut pipe = fs::File::from(mine);
        pipe.write_all(b"still open").unwrap();
        drop(pipe);
        let mut read = String::new();
        // ends only when no copy is left anywhere
        reader.read_to_string(&mut read).unwrap();
        assert_eq!(read, "still open");
    }

    #[test]
    fn a_number_that_stands_for_nothing_is_refused() {
        let refused = owned(-1).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(nix::libc::EBADF));
    }
}
