//! What was asked for, checked: everything that can be refused without a look at the host.

use crate::{
    address::{Cidr, Mac, link_name, netns_name},
    cli::Network,
    dns::Resolvers,
    error::Error,
    publish::Publish,
};
use std::{collections::BTreeSet, net::IpAddr};

/// The network that is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) netns: String,
    pub(crate) host_link: String,
    pub(crate) host_mac: Mac,
    pub(crate) host_addresses: Vec<Cidr>,
    /// None: the host end has the host addresses itself.
    pub(crate) bridge: Option<String>,
    pub(crate) container_link: String,
    pub(crate) container_mac: Mac,
    pub(crate) container_addresses: Vec<Cidr>,
    /// At most one of each family.
    pub(crate) gateways: Vec<IpAddr>,
    /// None: that of the host's default route.
    pub(crate) mtu: Option<u32>,
    pub(crate) nat: bool,
    pub(crate) publish: Vec<Publish>,
    pub(crate) forward_accept: bool,
    pub(crate) resolvers: Resolvers,
}

impl Wanted {
    pub(crate) fn new(network: &Network) -> Result<Self, Error> {
        let netns = netns_name(&network.name)?;
        let host_link = link_name(&network.host_link)?;
        let container_link = link_name(&network.container_link)?;
        let bridge = network.bridge.as_deref().map(link_name).transpose()?;
        if [&host_link, &container_link].into_iter().chain(&bridge).any(|name| name == "lo") {
            return Err(Error::usage("'lo' is the loopback interface's name"));
        }
        if bridge.as_ref() == Some(&host_link) {
            return Err(Error::usage(format!("'{host_link}' cannot be its own bridge")));
        }
        let host_addresses = addresses(&network.host_addr)?;
        let container_addresses = addresses(&network.container_addr)?;
        same_subnets(&host_addresses, &container_addresses)?;
        let publish = published(&network.publish)?;
        if !publish.is_empty() && !container_addresses.iter().any(|cidr| cidr.ip.is_ipv4()) {
            return Err(Error::usage("--publish needs an IPv4 address of the container end"));
        }
        if network.nat && !host_addresses.iter().any(|cidr| cidr.ip.is_ipv4()) {
            return Err(Error::usage("--nat needs an IPv4 address of the host end"));
        }
        let mac = |given: Option<&String>, end: &str| match given {
            Some(text) => Mac::host(text),
            None => Ok(Mac::from_text(&format!("{netns} {end}"))),
        };
        let host_mac = mac(network.host_mac.as_ref(), "host")?;
        let container_mac = mac(network.container_mac.as_ref(), "container")?;
        if host_mac == container_mac {
            return Err(Error::usage(format!("both ends have MAC address {host_mac}")));
        }
        let gateways = gateways(network, &host_addresses, &container_addresses)?;
        Ok(Self {
            netns,
            host_link,
            host_mac,
            host_addresses,
            bridge,
            container_link,
            container_mac,
            container_addresses,
            gateways,
            mtu: network.mtu,
            nat: network.nat,
            publish,
            forward_accept: network.forward_accept,
            resolvers: resolvers(&network.dns)?,
        })
    }
}

impl Wanted {
    /// The link that has the host addresses: what routes for the container.
    pub(crate) fn router(&self) -> &str {
        self.bridge.as_ref().unwrap_or(&self.host_link)
    }

    /// Whether there is room for whole subnets of others in between the addresses that tell whether a subnet is in use.
    pub(crate) fn is_wide(&self) -> bool {
        self.host_addresses.iter().any(|cidr| cidr.prefix < if cidr.ip.is_ipv4() { 24 } else { 64 })
    }

    /// Our own addresses, and the first and the last one of each subnet.
    pub(crate) fn telling_addresses(&self) -> Vec<IpAddr> {
        let own = self.host_addresses.iter().chain(&self.container_addresses);
        let all = own.flat_map(|cidr| [cidr.ip, cidr.network(), cidr.last()]);
        all.collect::<BTreeSet<_>>().into_iter().collect()
    }
}

fn published(given: &[String]) -> Result<Vec<Publish>, Error> {
    let mut checked: Vec<Publish> = vec![];
    for text in given {
        let publish = Publish::new(text)?;
        if let Some(other) = checked.iter().find(|other| other.clashes(&publish)) {
            return Err(Error::usage(format!(
                "ports '{other}' and '{publish}' are the same port of the host"
            )));
        }
        checked.push(publish);
    }
    Ok(checked)
}

fn addresses(given: &[String]) -> Result<Vec<Cidr>, Error> {
    let mut checked: Vec<Cidr> = vec![];
    for text in given {
        let cidr = Cidr::host(text)?;
        if checked.iter().any(|other| other.ip == cidr.ip) {
            return Err(Error::usage(format!("address {} is given twice", cidr.ip)));
        }
        checked.push(cidr);
    }
    Ok(checked)
}

fn same_subnets(host: &[Cidr], container: &[Cidr]) -> Result<(), Error> {
    for cidr in container {
        if host.iter().any(|other| other.ip == cidr.ip) {
            let ip = cidr.ip;
            return Err(Error::usage(format!("both ends have address {ip}")));
        }
        if !host.iter().any(|other| other.subnet() == cidr.subnet()) {
            let ends = host.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            return Err(Error::usage(format!(
                "container address {cidr} and host address {ends} are in different subnets"
            )));
        }
    }
    Ok(())
}

/// The first host address of each family that the container end has too, or what was given.
fn gateways(network: &Network, host: &[Cidr], container: &[Cidr]) -> Result<Vec<IpAddr>, Error> {
    if network.no_default_route {
        return Ok(vec![]);
    }
    for &given in &network.gateway {
        let mut subnets = container.iter();
        if !subnets.any(|cidr| cidr.contains(given) && cidr.ip != given) {
            return Err(Error::usage(format!(
                "gateway {given} is in no subnet of the container end"
            )));
        }
    }
    for v4 in [true, false] {
        let mut given = network.gateway.iter().filter(|ip| ip.is_ipv4() == v4);
        if let (Some(first), Some(second)) = (given.next(), given.next()) {
            return Err(Error::usage(format!("gateway {first} and {second} are one too many")));
        }
    }
    let first = |v4: bool| {
        let given = network.gateway.iter().find(|ip| ip.is_ipv4() == v4).copied();
        let mut reached = host
            .iter()
            .map(|cidr| cidr.ip)
            .filter(|ip| ip.is_ipv4() == v4 && container.iter().any(|cidr| cidr.contains(*ip)));
        given.or_else(|| reached.next())
    };
    Ok([first(true), first(false)].into_iter().flatten().collect())
}

fn resolvers(given: &[String]) -> Result<Resolvers, Error> {
    match given {
        [one] if one == "host" => Ok(Resolvers::Host),
        [one] if one == "none" => Ok(Resolvers::None),
        ips => ips.iter().map(|ip| resolver(ip)).collect::<Result<_, _>>().map(Resolvers::Given),
    }
}

fn resolver(text: &str) -> Result<IpAddr, Error> {
    match text.parse::<IpAddr>() {
        Ok(ip) if ip.is_loopback() => Err(Error::usage(format!(
            "resolver {ip} is on loopback, which is another one in the namespace"
        ))),
        Ok(ip) => Ok(ip),
        Err(_) if matches!(text, "host" | "none") => {
            Err(Error::usage(format!("resolver '{text}' goes with no other")))
        }
        Err(_) => Err(Error::usage(format!("'{text}' is not 'host', 'none' or an IP address"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Verb};
    use clap::Parser as _;

    fn wanted(options: &[&str]) -> Result<Wanted, String> {
        let args = ["netns-setup", "check"].iter().chain(options);
        let Some(Verb::Check(network)) = Cli::try_parse_from(args).unwrap().verb else { panic!() };
        Wanted::new(&network).map_err(|err| err.to_string())
    }

    #[test]
    fn the_default_is_the_labs_network() {
        let wanted = wanted(&[]).unwrap();
        assert_eq!(wanted.netns, "container_network_ns");
        assert_eq!(wanted.gateways, ["192.168.10.1".parse::<IpAddr>().unwrap()]);
        assert_ne!(wanted.host_mac, wanted.container_mac);
    }

    #[test]
    fn each_family_has_its_gateway() {
        let options = [
            ["--host-addr", "10.0.0.1/24"],
            ["--host-addr", "fd00::1/64"],
            ["--container-addr", "10.0.0.2/24"],
            ["--container-addr", "fd00::2/64"],
        ];
        let wanted = wanted(options.as_flattened()).unwrap();
        let gateways: Vec<String> = wanted.gateways.iter().map(ToString::to_string).collect();
        assert_eq!(gateways, ["10.0.0.1", "fd00::1"]);
    }

    #[test]
    fn what_cannot_work_is_refused() {
        for (options, why) in [
            (
                &["--host-addr", "10.0.0.1/24"][..],
                "container address 192.168.10.2/24 and host address 10.0.0.1/24 are in different subnets",
            ),
            (&["--container-addr", "192.168.10.1/24"], "both ends have address 192.168.10.1"),
            (&["--gateway", "10.0.0.1"], "gateway 10.0.0.1 is in no subnet of the container end"),
            (
                &["--dns", "127.0.0.53"],
                "resolver 127.0.0.53 is on loopback, which is another one in the namespace",
            ),
            (&["--dns", "me"], "'me' is not 'host', 'none' or an IP address"),
            (&["--host-link", "lo"], "'lo' is the loopback interface's name"),
        ] {
            assert_eq!(wanted(options), Err(why.into()));
        }
    }
}
