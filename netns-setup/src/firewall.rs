//! The host's own firewall, as far as iptables(8) speaks for it. Where its FORWARD chain has the policy
//! DROP, as Docker sets it, an accepting table of our own is of no use: every table has to let a packet
//! through. So the rules that accept go into that chain, marked as ours.

use crate::error::{Attempt as _, Error};
use nix::errno::Errno;
use std::{
    io::{self, Write as _},
    process::{Command, Output, Stdio},
};

/// What iptables says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Firewall {
    /// FORWARD has the policy DROP.
    pub(crate) drops: bool,
    /// There is a chain DOCKER-USER, which Docker leaves to its users.
    pub(crate) docker_user: bool,
    /// The rules that carry our mark, as iptables lists them but for `-A `.
    pub(crate) ours: Vec<String>,
    /// The other rules of FORWARD and DOCKER-USER that accept.
    pub(crate) accepting: Vec<String>,
}

impl Firewall {
    /// See what is there. None without iptables.
    pub(crate) fn look(netns: &str) -> Result<Option<Self>, Error> {
        let command = Command::new("iptables").args(["--wait", "--list-rules"]).output();
        Ok(said(command, "iptables --list-rules")?.map(|listing| Self::read(&listing, netns)))
    }

    fn read(listing: &str, netns: &str) -> Self {
        let mark = format!("--comment \"{}\"", mark(netns));
        let mut firewall = Self::default();
        for line in listing.lines() {
            let rule = line.strip_prefix("-A ");
            match (line, rule) {
                ("-P FORWARD DROP", _) => firewall.drops = true,
                ("-N DOCKER-USER", _) => firewall.docker_user = true,
                (_, Some(rule)) if rule.contains(&mark) => firewall.ours.push(rule.into()),
                (_, Some(rule)) if rule.ends_with(" -j ACCEPT") => {
                    firewall.accepting.push(rule.into());
                }
                _ => {}
            }
        }
        firewall
    }

    /// The chain that our rules belong in.
    pub(crate) fn chain(&self) -> &'static str {
        if self.docker_user { "DOCKER-USER" } else { "FORWARD" }
    }

    /// Whether somebody else lets through what comes from `link`.
    pub(crate) fn accepts(&self, link: &str) -> bool {
        ["FORWARD", "DOCKER-USER"].iter().any(|chain| {
            let from_link = format!("{chain} -i {link} -j ACCEPT");
            let all = format!("{chain} -j ACCEPT");
            self.accepting.iter().any(|rule| *rule == from_link || *rule == all)
        })
    }

    /// The rules that let traffic of `link` through: all that comes from it, answers to that, and where
    /// ports are `published` what they were led to.
    pub(crate) fn rules(&self, netns: &str, link: &str, published: bool) -> Vec<String> {
        let (chain, mark) = (self.chain(), mark(netns));
        let accept = format!("-m comment --comment \"{mark}\" -j ACCEPT");
        let state = |state| format!("{chain} -o {link} -m conntrack --ctstate {state} {accept}");
        let mut rules = vec![format!("{chain} -i {link} {accept}"), state("RELATED,ESTABLISHED")];
        rules.extend(published.then(|| state("DNAT")));
        rules
    }
}

/// The names for which there are rules of ours; none without iptables.
pub(crate) fn list() -> Result<Vec<String>, Error> {
    let command = Command::new("iptables").args(["--wait", "--list-rules"]).output();
    let listing = said(command, "iptables --list-rules")?.unwrap_or_default();
    let name = |line: &str| {
        let (_, comment) = line.split_once("--comment \"netns-setup:")?;
        Some(comment.split_once('"')?.0.to_owned())
    };
    Ok(listing.lines().filter_map(name).collect())
}

/// Put `rules` in the place of `before`, all at once.
pub(crate) fn replace(before: &[String], rules: &[String]) -> Result<(), Error> {
    let text = format!("*filter\n{}COMMIT\n", lines("", before, rules).join("\n") + "\n");
    let command = Command::new("iptables-restore")
        .args(["--wait", "--noflush"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let fed = command.and_then(|mut child| {
        // It is read to its end, or there is an output that says why not.
        let fed = child.stdin.take().map_or(Ok(()), |mut stdin| stdin.write_all(text.as_bytes()));
        let output = child.wait_with_output()?;
        if output.status.success() { fed.map(|()| output) } else { Ok(output) }
    });
    said(fed, "iptables-restore")?.map(drop).ok_or_else(missing)
}

/// What `replace` does, in iptables' own words, each after `program`.
pub(crate) fn lines(program: &str, before: &[String], rules: &[String]) -> Vec<String> {
    let delete = before.iter().map(|rule| format!("{program}-D {rule}"));
    delete.chain(rules.iter().map(|rule| format!("{program}-I {rule}"))).collect()
}

fn missing() -> Error {
    Error::new(format!("cannot run 'iptables': {} (ENOENT)", Errno::ENOENT.desc()))
        .hint("--forward-accept needs it; Debian's package is iptables")
}

fn mark(netns: &str) -> String {
    format!("netns-setup:{netns}")
}

fn said(output: io::Result<Output>, command: &str) -> Result<Option<String>, Error> {
    let output = match output {
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(None),
        output => output.attempt(|| format!("cannot run '{command}'"))?,
    };
    if output.status.success() {
        return Ok(Some(String::from_utf8_lossy(&output.stdout).into_owned()));
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let first = said.lines().next().unwrap_or("it said nothing");
    Err(Error::new(format!("'{command}' failed: {first}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dockers_firewall_is_understood() {
        let listing = "-P INPUT ACCEPT\n-P FORWARD DROP\n-P OUTPUT ACCEPT\n-N DOCKER\n\
            -N DOCKER-USER\n-A FORWARD -j DOCKER-USER\n-A FORWARD -i docker0 -j ACCEPT\n\
            -A DOCKER-USER -i h -m comment --comment \"netns-setup:demo\" -j ACCEPT\n\
            -A DOCKER-USER -i k -m comment --comment \"netns-setup:demo2\" -j ACCEPT\n";
        let firewall = Firewall::read(listing, "demo");
        assert!(firewall.drops);
        assert_eq!(firewall.chain(), "DOCKER-USER");
        assert_eq!(firewall.ours, [firewall.rules("demo", "h", false)[0].clone()]);
        assert!(firewall.accepts("docker0"));
        assert!(!firewall.accepts("h"));
    }

    #[test]
    fn rules_are_replaced_in_iptables_words() {
        let rules = Firewall::default().rules("demo", "h", true);
        let lines = lines("iptables ", &[rules[1].clone()], &rules[2..]);
        let comment = "-m comment --comment \"netns-setup:demo\" -j ACCEPT";
        assert_eq!(
            lines,
            [
                format!(
                    "iptables -D FORWARD -o h -m conntrack --ctstate RELATED,ESTABLISHED {comment}"
                ),
                format!("iptables -I FORWARD -o h -m conntrack --ctstate DNAT {comment}"),
            ]
        );
    }
}
