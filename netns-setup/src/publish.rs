//! Ports of the host that lead to the container.

use crate::error::Error;
use std::{fmt, net::Ipv4Addr, str::FromStr};

/// `[IP:]HOST:CONTAINER[/udp]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Publish {
    /// None: every address of the host.
    pub(crate) ip: Option<Ipv4Addr>,
    pub(crate) host: u16,
    pub(crate) container: u16,
    pub(crate) udp: bool,
}

impl Publish {
    /// Check one.
    pub(crate) fn new(text: &str) -> Result<Self, Error> {
        let publish = Self::from_str(text).map_err(|()| {
            Error::usage(format!(
                "'{text}' is no port to publish, as in 8080:80, 192.0.2.1:8080:80 or 53:53/udp"
            ))
        })?;
        if publish.ip.is_some_and(|ip| ip.is_loopback()) {
            return Err(Error::usage(format!(
                "port '{text}' cannot be published on loopback, which leads to no other namespace"
            )));
        }
        Ok(publish)
    }

    /// Whether both want the same port of the same address.
    pub(crate) fn clashes(&self, other: &Self) -> bool {
        let same_ip = self.ip == other.ip || self.ip.is_none() || other.ip.is_none();
        same_ip && self.host == other.host && self.udp == other.udp
    }
}

impl FromStr for Publish {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
        let udp = match protocol {
            "tcp" => false,
            "udp" => true,
            _ => return Err(()),
        };
        let port = |text: &str| match text.parse() {
            // "+80" is a number to Rust, and 0 stands for any port.
            Ok(port) if port > 0 && text.bytes().all(|byte| byte.is_ascii_digit()) => Ok(port),
            _ => Err(()),
        };
        let (ip, host, container) = match ports.split(':').collect::<Vec<_>>()[..] {
            [host, container] => (None, host, container),
            [ip, host, container] => (Some(ip.parse().map_err(drop)?), host, container),
            _ => return Err(()),
        };
        // As in Docker, 0.0.0.0 stands for every address.
        let ip = ip.filter(|ip: &Ipv4Addr| !ip.is_unspecified());
        Ok(Self { ip, host: port(host)?, container: port(container)?, udp })
    }
}

impl fmt::Display for Publish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.ip.iter().try_for_each(|ip| write!(f, "{ip}:"))?;
        let udp = if self.udp { "/udp" } else { "" };
        write!(f, "{}:{}{udp}", self.host, self.container)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_to_publish_is_read_as_docker_reads_it() {
        for (text, shown) in [
            ("8080:80", "8080:80"),
            ("8080:80/tcp", "8080:80"),
            ("53:5353/udp", "53:5353/udp"),
            ("192.0.2.1:8080:80", "192.0.2.1:8080:80"),
            ("0.0.0.0:8080:80", "8080:80"),
        ] {
            assert_eq!(Publish::new(text).unwrap().to_string(), shown);
        }
        for bad in
            ["", "80", "0:80", "80:0", "80:65536", "+80:80", "80:80/sctp", "::1:80:80", "a:80:80"]
        {
            assert_eq!(Publish::from_str(bad), Err(()), "{bad}");
        }
        assert!(Publish::new("127.0.0.1:80:80").is_err());
    }

    #[test]
    fn the_same_port_of_the_same_address_clashes() {
        let clash = |a: &str, b: &str| Publish::clashes(&a.parse().unwrap(), &b.parse().unwrap());
        assert!(clash("80:80", "80:81"));
        assert!(clash("80:80", "192.0.2.1:80:81"));
        assert!(!clash("192.0.2.2:80:80", "192.0.2.1:80:81"));
        assert!(!clash("53:53", "53:53/udp"));
    }
}
