//! The few calls of the system that neither nix nor socket2 has in a safe form.
//!
//! The only file of this crate with `unsafe`: each block says why it is sound.

#![allow(unsafe_code)]

use std::io;

use socket2::SockAddr;

/// Gives the calling thread real-time priority (`SCHED_FIFO`, sched(7)), 1 to 99. Threads and
/// processes that it starts inherit it only if `inherited`.
///
/// # Errors
///
/// `EPERM` without `CAP_SYS_NICE` and without a large enough `RLIMIT_RTPRIO`, unless it has as high
/// a priority already.
pub fn set_realtime(priority: i32, inherited: bool) -> io::Result<()> {
    let reset = if inherited { 0 } else { libc::SCHED_RESET_ON_FORK };
    let parameters = libc::sched_param { sched_priority: priority };
    // SAFETY: 0 is the calling thread; the kernel reads the structure, which lives until the call
    // returns, and keeps no pointer to it.
    let outcome =
        unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO | reset, &raw const parameters) };
    if outcome == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The address of an interface for packet(7) sockets, with protocol 0: a socket that is bound to
/// it sends there, and receives nothing.
///
/// # Errors
///
/// If the index is none that an interface can have.
pub fn packet_address(index: u32) -> io::Result<SockAddr> {
    let index = i32::try_from(index).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    // SAFETY: the storage is larger than `sockaddr_ll` and aligned for every address of a socket,
    // so the pointer may be written through as one. All its fields are written, and the length is
    // that of the structure.
    let ((), address) = unsafe {
        SockAddr::try_init(|storage, length| {
            storage.cast::<libc::sockaddr_ll>().write(libc::sockaddr_ll {
                sll_family: libc::AF_PACKET as libc::sa_family_t,
                sll_protocol: 0,
                sll_ifindex: index,
                sll_hatype: 0,
                sll_pkttype: 0,
                sll_halen: 0,
                sll_addr: [0; 8],
            });
            length.write(size_of::<libc::sockaddr_ll>() as libc::socklen_t);
            Ok(())
        })?
    };
    Ok(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_is_of_the_interface_and_of_no_protocol() {
        let address = packet_address(7).unwrap();
        assert_eq!(i32::from(address.family()), libc::AF_PACKET);
        assert_eq!(address.len() as usize, size_of::<libc::sockaddr_ll>());
        assert!(packet_address(u32::MAX).is_err());
    }
}
