//! Masquerading by nft(8), in a table of our own: a firewall that reloads its tables leaves it alone.

use crate::{
    address::Cidr,
    error::{Attempt as _, Error},
};
use nix::errno::Errno;
use std::{
    io,
    process::{Command, Stdio},
};

/// The table of the network `netns`.
pub(crate) fn table(netns: &str) -> String {
    format!("netns-setup-{netns}")
}

/// The rules of `netns`: what comes from its subnets and leaves by another link than its own takes that
/// link's address.
pub(crate) fn rules(host_link: &str, subnets: &[Cidr]) -> Vec<String> {
    let rule = |subnet: &Cidr| format!("ip saddr {subnet} oifname != \"{host_link}\" masquerade");
    subnets.iter().map(rule).collect()
}

/// One transaction that makes the table anew, whatever was there.
pub(crate) fn replace_text(netns: &str, rules: &[String]) -> String {
    let table = table(netns);
    let rules = rules.join("; ");
    format!(
        "table ip {table}; delete table ip {table}; table ip {table} \
         {{ chain postrouting {{ type nat hook postrouting priority 100; {rules}; }}; }}"
    )
}

/// The transaction that takes the table away; no failure when it is not there.
pub(crate) fn delete_text(netns: &str) -> String {
    let table = table(netns);
    format!("table ip {table}; delete table ip {table}")
}

/// The rules that are in the table now; none when there is no table.
pub(crate) fn look(netns: &str) -> Result<Option<Vec<String>>, Error> {
    let table = table(netns);
    // Asked for by its name, a table that is not there would be a failure like any other.
    let Some(tables) = nft(&["list", "tables", "ip"])? else { return Ok(None) };
    if !tables.lines().any(|line| line.trim() == format!("table ip {table}")) {
        return Ok(None);
    }
    let text = nft(&["list", "table", "ip", &table])?.unwrap_or_default();
    let rules = text.lines().map(str::trim).filter(|line| line.starts_with("ip saddr "));
    Ok(Some(rules.map(Into::into).collect()))
}

/// The names for which there is a table of ours; none without nft.
pub(crate) fn list() -> Result<Vec<String>, Error> {
    let tables = nft(&["list", "tables", "ip"])?.unwrap_or_default();
    let name = |line: &str| Some(line.trim().strip_prefix("table ip netns-setup-")?.to_owned());
    Ok(tables.lines().filter_map(name).collect())
}

/// Refuse early where nft is missing.
pub(crate) fn need() -> Result<(), Error> {
    match nft(&["--version"])? {
        Some(_) => Ok(()),
        None => Err(missing()),
    }
}

/// Run one transaction.
pub(crate) fn run(text: &str) -> Result<(), Error> {
    nft(&[text])?.map(drop).ok_or_else(missing)
}

fn missing() -> Error {
    Error::new(format!("cannot run 'nft': {} (ENOENT)", Errno::ENOENT.desc()))
        .hint("--nat needs it; Debian's package is nftables")
}

/// What nft says; none when there is no nft.
fn nft(args: &[&str]) -> Result<Option<String>, Error> {
    let output = Command::new("nft").args(args).stdin(Stdio::null()).output();
    let output = match output {
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(None),
        output => output.attempt(|| "cannot run 'nft'".into())?,
    };
    if output.status.success() {
        return Ok(Some(String::from_utf8_lossy(&output.stdout).into_owned()));
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let first = said.lines().next().unwrap_or("it said nothing");
    Err(Error::new(format!("'nft {}' failed: {first}", args.join(" "))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_made_in_one_transaction() {
        let subnets = ["192.168.10.0/24".parse().unwrap()];
        assert_eq!(
            replace_text("demo", &rules("veth_host", &subnets)),
            "table ip netns-setup-demo; delete table ip netns-setup-demo; \
             table ip netns-setup-demo { chain postrouting \
             { type nat hook postrouting priority 100; \
             ip saddr 192.168.10.0/24 oifname != \"veth_host\" masquerade; }; }"
        );
    }
}
