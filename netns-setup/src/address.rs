//! Names, IP addresses with their prefix, MAC addresses: what they may be.

use crate::error::Error;
use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

/// `IFNAMSIZ` of linux/if.h without the terminating zero.
const LINK_NAME_BYTES: usize = 15;
/// Fits a file name, an nft table name and, with our marks, an ifalias (255 bytes each).
const NETNS_NAME_BYTES: usize = 128;

/// Refuse what the kernel refuses as a link's name, and what would need quotes in a shell.
pub(crate) fn link_name(name: &str) -> Result<String, Error> {
    checked_name("interface", name, LINK_NAME_BYTES, "the kernel")
}

/// Refuse what cannot be a file in /run/netns, and what would need quotes in a shell.
pub(crate) fn netns_name(name: &str) -> Result<String, Error> {
    checked_name("network namespace", name, NETNS_NAME_BYTES, "netns-setup")
}

fn checked_name(what: &str, name: &str, limit: usize, who: &str) -> Result<String, Error> {
    let bytes = name.len();
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if bytes > limit {
        return Err(Error::usage(format!(
            "{what} name '{name}' has {bytes} bytes; {who} allows {limit}"
        )));
    }
    if matches!(name, "" | "." | "..") || name.starts_with('-') {
        return Err(Error::usage(format!("'{name}' is no {what} name")));
    }
    if let Some(odd) = name.chars().find(|&c| !plain(c)) {
        return Err(Error::usage(format!(
            "{what} name '{name}' has a {odd:?}; letters, digits, '.', '_' and '-' are allowed"
        )));
    }
    Ok(name.into())
}

/// An address and the prefix length of its subnet, as in `192.168.10.1/24`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cidr {
    pub(crate) ip: IpAddr,
    pub(crate) prefix: u8,
}

impl Cidr {
    /// The address that stands for the subnet: all host bits zero.
    pub(crate) fn network(self) -> IpAddr {
        match self.ip {
            IpAddr::V4(ip) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.prefix)).unwrap_or(0);
                Ipv4Addr::from_bits(ip.to_bits() & mask).into()
            }
            IpAddr::V6(ip) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.prefix)).unwrap_or(0);
                Ipv6Addr::from_bits(ip.to_bits() & mask).into()
            }
        }
    }

    /// The last address of the subnet: all host bits one.
    pub(crate) fn last(self) -> IpAddr {
        match (self.ip, self.network()) {
            (IpAddr::V4(_), IpAddr::V4(first)) => {
                let hosts = u32::MAX.checked_shr(self.prefix.into()).unwrap_or(0);
                Ipv4Addr::from_bits(first.to_bits() | hosts).into()
            }
            (_, IpAddr::V6(first)) => {
                let hosts = u128::MAX.checked_shr(self.prefix.into()).unwrap_or(0);
                Ipv6Addr::from_bits(first.to_bits() | hosts).into()
            }
            (ip, _) => ip,
        }
    }

    /// The subnet itself, as in `192.168.10.0/24`.
    pub(crate) fn subnet(self) -> Self {
        Self { ip: self.network(), prefix: self.prefix }
    }

    /// Whether the subnet holds `ip`.
    pub(crate) fn contains(self, ip: IpAddr) -> bool {
        ip.is_ipv4() == self.ip.is_ipv4()
            && Self { ip, prefix: self.prefix }.network() == self.network()
    }

    /// Whether the two subnets share an address.
    pub(crate) fn overlaps(self, other: Self) -> bool {
        let wider = if self.prefix < other.prefix { self } else { other };
        wider.contains(self.ip) && wider.contains(other.ip)
    }

    /// Check that a link can have this address and that its subnet has room for its peer.
    pub(crate) fn host(text: &str) -> Result<Self, Error> {
        let refuse = |why: String| Error::usage(format!("address '{text}' {why}"));
        let cidr = Self::from_str(text).map_err(|why| refuse(why.into()))?;
        let longest = if cidr.ip.is_ipv4() { 31 } else { 127 };
        if cidr.prefix > longest || cidr.prefix == 0 {
            let prefix = cidr.prefix;
            return Err(refuse(format!("has prefix length {prefix}; 1 to {longest} is allowed")));
        }
        let ip = cidr.ip;
        if ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() {
            return Err(refuse("cannot be the address of a link".into()));
        }
        // A /31 (RFC 3021) and a /127 (RFC 6164) have two addresses, both for use.
        let IpAddr::V4(v4) = ip else { return Ok(cidr) };
        let hosts = u32::MAX.checked_shr(cidr.prefix.into()).unwrap_or(0);
        if cidr.prefix < 31 && v4.to_bits() & hosts == 0 {
            return Err(refuse("is the network address of its subnet".into()));
        }
        if cidr.prefix < 31 && v4.to_bits() & hosts == hosts {
            return Err(refuse("is the broadcast address of its subnet".into()));
        }
        Ok(cidr)
    }
}

impl FromStr for Cidr {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (ip, prefix) =
            text.split_once('/').ok_or("has no prefix length, as in 192.168.10.1/24")?;
        let ip: IpAddr = ip.parse().map_err(|_| "is no IP address, as in 192.168.10.1/24")?;
        // "+24" is a number to Rust, not to ip(8).
        let digits = prefix.bytes().all(|byte| byte.is_ascii_digit());
        match prefix.parse() {
            Ok(prefix) if digits && prefix <= if ip.is_ipv4() { 32 } else { 128 } => {
                Ok(Self { ip, prefix })
            }
            _ if ip.is_ipv4() => Err("has no prefix length from 0 to 32"),
            _ => Err("has no prefix length from 0 to 128"),
        }
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.ip, self.prefix)
    }
}

/// A MAC address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mac(pub(crate) [u8; 6]);

impl Mac {
    /// The same address for the same text on every machine and in every version: FNV-1a (RFC 9923)
    /// over `text`, made unicast and locally administered, so that it clashes with no maker's.
    pub(crate) fn from_text(text: &str) -> Self {
        let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        let [high, _, _, rest @ ..] = hash.to_be_bytes();
        let [second, third, fourth, fifth, sixth] = rest;
        Self([high & 0xfc | 0x02, second, third, fourth, fifth, sixth])
    }

    /// Check that a link can have this address.
    pub(crate) fn host(text: &str) -> Result<Self, Error> {
        let mac = Self::from_str(text).map_err(|()| {
            Error::usage(format!("'{text}' is no MAC address, as in 02:00:00:00:00:01"))
        })?;
        if mac.0 == [0; 6] || mac.0[0] & 1 == 1 {
            return Err(Error::usage(format!("MAC address '{text}' is not one link's alone")));
        }
        Ok(mac)
    }
}

impl FromStr for Mac {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let byte = |part: &str| match part.len() {
            2 => u8::from_str_radix(part, 16).map_err(drop),
            _ => Err(()),
        };
        let bytes = text.split(':').map(byte).collect::<Result<Vec<_>, _>>()?;
        bytes.try_into().map(Self).map_err(drop)
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.map(|byte| format!("{byte:02x}")).join(":"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal<T: fmt::Debug>(result: Result<T, Error>) -> String {
        result.unwrap_err().to_string()
    }

    #[test]
    fn a_links_name_fits_the_kernel() {
        assert_eq!(link_name("veth_host").unwrap(), "veth_host");
        assert_eq!(link_name("fifteen_bytes_1").unwrap().len(), 15);
        assert_eq!(
            refusal(link_name("veth-container-demo")),
            "interface name 'veth-container-demo' has 19 bytes; the kernel allows 15"
        );
        assert_eq!(refusal(link_name("..")), "'..' is no interface name");
        assert_eq!(refusal(netns_name("")), "'' is no network namespace name");
        assert_eq!(
            refusal(netns_name("a/b")),
            "network namespace name 'a/b' has a '/'; letters, digits, '.', '_' and '-' are allowed"
        );
    }

    #[test]
    fn an_address_that_no_link_can_have_is_refused() {
        for (text, why) in [
            ("192.168.10.1", "has no prefix length, as in 192.168.10.1/24"),
            ("192.168.10.1/33", "has no prefix length from 0 to 32"),
            ("192.168.10.1/+24", "has no prefix length from 0 to 32"),
            ("192.168.10.1/32", "has prefix length 32; 1 to 31 is allowed"),
            ("192.168.10.1/0", "has prefix length 0; 1 to 31 is allowed"),
            ("fd00::1/128", "has prefix length 128; 1 to 127 is allowed"),
            ("fe80::1%eth0/64", "is no IP address, as in 192.168.10.1/24"),
            ("0.0.0.0/24", "cannot be the address of a link"),
            ("127.0.0.1/8", "cannot be the address of a link"),
            ("224.0.0.1/24", "cannot be the address of a link"),
            ("192.168.10.0/24", "is the network address of its subnet"),
            ("192.168.10.255/24", "is the broadcast address of its subnet"),
        ] {
            assert_eq!(refusal(Cidr::host(text)), format!("address '{text}' {why}"));
        }
        for fine in ["192.168.10.1/24", "10.0.0.0/31", "10.0.0.1/31", "fd00::1/64"] {
            assert_eq!(Cidr::host(fine).unwrap().to_string(), fine);
        }
    }

    #[test]
    fn a_subnet_has_a_first_and_a_last_address() {
        for (text, first, last) in [
            ("192.168.10.7/24", "192.168.10.0", "192.168.10.255"),
            ("10.0.0.1/31", "10.0.0.0", "10.0.0.1"),
            ("128.0.0.1/1", "128.0.0.0", "255.255.255.255"),
            ("fd00::7/127", "fd00::6", "fd00::7"),
            ("fd00::7/64", "fd00::", "fd00::ffff:ffff:ffff:ffff"),
        ] {
            let cidr: Cidr = text.parse().unwrap();
            let ends = (cidr.network().to_string(), cidr.last().to_string());
            assert_eq!(ends, (first.into(), last.into()));
        }
    }

    #[test]
    fn subnets_that_share_an_address_overlap() {
        let overlap = |a: &str, b: &str| Cidr::overlaps(a.parse().unwrap(), b.parse().unwrap());
        assert!(overlap("192.168.10.1/24", "192.168.10.0/24"));
        assert!(overlap("192.168.10.1/24", "192.168.0.0/16"));
        assert!(overlap("192.168.0.0/16", "192.168.10.1/24"));
        assert!(!overlap("192.168.10.1/24", "192.168.11.0/24"));
        assert!(!overlap("192.168.10.1/24", "fd00::/64"));
        assert!(overlap("fd00::1/64", "fd00::/48"));
    }

    #[test]
    fn a_mac_address_is_stable_unicast_and_local() {
        let mac = Mac::from_text("container_network_ns veth_host");
        assert_eq!(mac, Mac::from_text("container_network_ns veth_host"));
        assert_ne!(mac, Mac::from_text("container_network_ns veth_container"));
        for name in 0..200 {
            assert_eq!(Mac::from_text(&name.to_string()).0[0] & 3, 2);
        }
        assert_eq!("02:00:5e:10:ff:01".parse::<Mac>().unwrap().to_string(), "02:00:5e:10:ff:01");
        for bad in
            ["", "02:00:00:00:00", "2:0:0:0:0:1", "02:00:00:00:00:01:02", "zz:00:00:00:00:01"]
        {
            assert_eq!(bad.parse::<Mac>(), Err(()), "{bad}");
        }
        assert!(Mac::host("01:00:00:00:00:01").is_err());
    }
}
