//! A port of the switch, cut and healed by one system call each, so that the moment is known.
//!
//! The port is put into the state "disabled": it drops whatever comes, in both directions, and
//! neither side has its carrier taken away. That is what a dead switch in between looks like.
//! The message is what `bridge link set dev PORT state N` sends: RTM_SETLINK of family AF_BRIDGE,
//! with IFLA_BRPORT_STATE in IFLA_PROTINFO (rtnetlink(7), linux/if_link.h, linux/if_bridge.h).

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, OwnedFd};

use nix::net::if_::if_nametoindex;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recvmsg, sendmsg,
    socket,
};

use crate::clock::{Stamp, now};

const RTM_SETLINK: u16 = 19;
const NLMSG_ERROR: u16 = 2;
const NLM_F_REQUEST_ACK: u16 = 1 | 4;
const AF_BRIDGE: u8 = 7;
const IFLA_PROTINFO_NESTED: u16 = 12 | 0x8000;
const IFLA_BRPORT_STATE: u16 = 1;
const DISABLED: u8 = 0;
const FORWARDING: u8 = 3;

pub struct Port {
    socket: OwnedFd,
    index: u32,
}

impl Port {
    /// The port of this name in the namespace of the calling thread.
    pub fn open(name: &str) -> io::Result<Self> {
        let socket = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkRoute,
        )?;
        Ok(Self { socket, index: if_nametoindex(name)? })
    }

    /// Lets nothing through any more. Returns the moment just before.
    pub fn cut(&self) -> io::Result<Stamp> {
        self.set(DISABLED)
    }

    /// Lets everything through again. Returns the moment just before.
    pub fn heal(&self) -> io::Result<Stamp> {
        self.set(FORWARDING)
    }

    fn set(&self, state: u8) -> io::Result<Stamp> {
        let message = self.message(state);
        let kernel = NetlinkAddr::new(0, 0);
        let zero = now();
        let parts = [IoSlice::new(&message)];
        sendmsg(self.socket.as_raw_fd(), &parts, &[], MsgFlags::empty(), Some(&kernel))?;
        let mut answer = [0; 256];
        let mut parts = [IoSliceMut::new(&mut answer)];
        let flags = MsgFlags::empty();
        let length =
            recvmsg::<NetlinkAddr>(self.socket.as_raw_fd(), &mut parts, None, flags)?.bytes;
        let Some(&[_, _, _, _, low, high, ..]) = answer.get(..length) else {
            return Err(io::Error::other("the kernel's answer is too short"));
        };
        let code = answer[16..20].try_into().map_or(0, i32::from_ne_bytes);
        match (u16::from_ne_bytes([low, high]), code) {
            (NLMSG_ERROR, 0) => Ok(zero),
            (NLMSG_ERROR, code) => Err(io::Error::from_raw_os_error(-code)),
            (other, _) => Err(io::Error::other(format!("the kernel answers with {other}"))),
        }
    }

    fn message(&self, state: u8) -> Vec<u8> {
        const LENGTH: u32 = 44;
        let mut bytes = Vec::new();
        bytes.extend(LENGTH.to_ne_bytes());
        bytes.extend(RTM_SETLINK.to_ne_bytes());
        bytes.extend(NLM_F_REQUEST_ACK.to_ne_bytes());
        bytes.extend([0; 8]); // sequence number and sender
        bytes.extend([AF_BRIDGE, 0, 0, 0]);
        bytes.extend(self.index.to_ne_bytes());
        bytes.extend([0; 8]); // flags of the device, and which of them to change
        bytes.extend(12_u16.to_ne_bytes());
        bytes.extend(IFLA_PROTINFO_NESTED.to_ne_bytes());
        bytes.extend(5_u16.to_ne_bytes());
        bytes.extend(IFLA_BRPORT_STATE.to_ne_bytes());
        bytes.extend([state, 0, 0, 0]);
        bytes
    }
}
