//! Where the relay is, and with which token.

use crate::exit::OrFault;
use hayward_daemon::config::Config;
use hayward_daemon::home::{Home, Running, read_if_there};
use hayward_daemon::process::ProcessId;
use hayward_shared::fault::{Code, Fault};
use reqwest::Url;

/// A relay, and the credential for it.
#[derive(Clone)]
pub(crate) struct Place {
    /// `http://…` or `https://…`.
    pub(crate) url: Url,
    /// The user's token.
    pub(crate) token: String,
}

impl Place {
    /// The address as people write it: without the slash that stands for no path.
    pub(crate) fn shown(&self) -> &str {
        shown(&self.url)
    }
}

/// A URL without the slash that stands for no path.
pub(crate) fn shown(url: &Url) -> &str {
    url.as_str().trim_end_matches('/')
}

/// Finds the relay anew each time it is asked, for an embedded one moves with its daemon.
#[derive(Clone)]
pub(crate) struct Finder {
    /// What `--relay` says.
    pub(crate) relay: Option<String>,
    /// What `--token` says.
    pub(crate) token: Option<String>,
    /// The state folder.
    pub(crate) home: Home,
}

impl Finder {
    /// The daemon that runs on the state folder, if one does.
    pub(crate) fn running(&self) -> Result<Option<Running>, Fault> {
        alive(&self.home)
    }

    /// The relay that the command line or the configuration names.
    pub(crate) fn configured(&self) -> Result<Option<Url>, Fault> {
        if let Some(relay) = &self.relay {
            return parse(relay).map(Some);
        }
        let config = Config::read(&self.home.config()).or_fault(Code::Invalid)?;
        config.relay.url.as_deref().map(parse).transpose()
    }

    /// The relay that is named, else the one of the running daemon.
    pub(crate) fn relay(&self) -> Result<Url, Fault> {
        if let Some(named) = self.configured()? {
            return Ok(named);
        }
        match self.running()? {
            Some(running) => parse(&running.relay),
            None => {
                let home = self.home.root().display();
                let message = format!("no relay to talk to: nothing runs on {home}");
                Err(Fault::new(Code::Unavailable, message).with_hint("start it: hayward up"))
            }
        }
    }

    /// The relay and the token for it. Without a token the relay is asked all the same: whether it
    /// can be reached comes before whether it lets anyone in.
    pub(crate) fn place(&self) -> Result<Place, Fault> {
        let url = self.relay()?;
        let token = match &self.token {
            Some(token) => Some(token.clone()),
            None => read_if_there(&self.home.user_token()).or_fault(Code::Failed)?,
        };
        let token = token.unwrap_or_default();
        Ok(Place { url, token })
    }
}

/// The daemon that told of itself in this folder, if it still runs.
pub(crate) fn alive(home: &Home) -> Result<Option<Running>, Fault> {
    let running = home.running().or_fault(Code::Failed)?;
    Ok(running.filter(|running| process(running).is_some_and(|process| process.alive())))
}

/// The process of a daemon that told of itself.
pub(crate) fn process(running: &Running) -> Option<ProcessId> {
    Some(ProcessId { pid: i32::try_from(running.pid).ok()?, start: running.started })
}

fn parse(text: &str) -> Result<Url, Fault> {
    let wrong = |why: &str| {
        Fault::new(Code::Usage, format!("the relay's address '{text}' {why}"))
            .with_hint("it looks like http://127.0.0.1:7420")
    };
    let url = Url::parse(text).map_err(|error| wrong(&format!("is no URL: {error}")))?;
    match url.scheme() {
        "http" | "https" if url.has_host() => Ok(url),
        _ => Err(wrong("is neither http:// nor https://")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finder(folder: &std::path::Path) -> Finder {
        Finder { relay: None, token: None, home: Home::open(Some(folder), None).unwrap() }
    }

    fn announce(finder: &Finder, started: u64, relay: &str) {
        let running = Running {
            pid: std::process::id(),
            started,
            relay: relay.into(),
            daemon_id: "d".into(),
            version: "0".into(),
        };
        finder.home.announce(&running).unwrap();
    }

    #[test]
    fn the_command_line_goes_before_the_configuration_before_the_running_daemon() {
        let folder = tempfile::tempdir().unwrap();
        let mut finder = finder(folder.path());
        assert_eq!(finder.relay().unwrap_err().code, Code::Unavailable);
        let me = ProcessId::of(std::process::id().cast_signed()).unwrap().unwrap();
        announce(&finder, me.start, "http://127.0.0.1:1");
        assert_eq!(finder.relay().unwrap().as_str(), "http://127.0.0.1:1/");
        std::fs::write(finder.home.config(), "[relay]\nurl = \"http://127.0.0.1:2\"").unwrap();
        assert_eq!(finder.relay().unwrap().as_str(), "http://127.0.0.1:2/");
        finder.relay = Some("http://127.0.0.1:3".into());
        assert_eq!(finder.relay().unwrap().as_str(), "http://127.0.0.1:3/");
    }

    #[test]
    fn a_number_that_a_stranger_has_now_is_no_daemon() {
        let folder = tempfile::tempdir().unwrap();
        let finder = finder(folder.path());
        announce(&finder, 1, "http://127.0.0.1:1");
        assert_eq!(finder.running().unwrap(), None);
    }

    #[test]
    fn the_token_of_the_folder_serves_when_none_is_given() {
        let folder = tempfile::tempdir().unwrap();
        let mut finder = finder(folder.path());
        finder.relay = Some("http://127.0.0.1:3".into());
        assert_eq!(finder.place().unwrap().token, "");
        std::fs::write(finder.home.user_token(), "hwu_1\n").unwrap();
        assert_eq!(finder.place().unwrap().token, "hwu_1");
        finder.token = Some("hwu_2".into());
        assert_eq!(finder.place().unwrap().token, "hwu_2");
    }

    #[test]
    fn an_address_is_http() {
        for wrong in ["", "127.0.0.1:80", "ftp://a", "unix:/x"] {
            assert_eq!(parse(wrong).unwrap_err().code, Code::Usage, "{wrong}");
        }
    }
}
