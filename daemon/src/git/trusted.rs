//! What a command may use of the user's own configuration, and of no repository's: the programs
//! that log in and that sign.

use std::time::Duration;

use super::command::Git;

/// Seconds of silence after which a host is given up: twice what a bad mobile line takes.
const CONNECT_SECONDS: u32 = 15;

/// How long a signer may take. One that waits for a person who is not there never ends.
pub(super) const SIGNING: Duration = Duration::from_secs(30);

/// The keys that name a signer, with the key that may name it too, and what git runs when none
/// does. The first two are one to git.
const SIGNERS: [(&str, &str, &str); 5] = [
    ("gpg.program", "gpg.openpgp.program", "gpg"),
    ("gpg.openpgp.program", "gpg.program", "gpg"),
    ("gpg.ssh.program", "gpg.ssh.program", "ssh-keygen"),
    ("gpg.x509.program", "gpg.x509.program", "gpgsm"),
    // names the key where the configuration does not; none does unless the user's own
    ("gpg.ssh.defaultKeyCommand", "gpg.ssh.defaultkeycommand", "false"),
];

impl Git {
    /// Lets the command reach another machine as the user would: by the credential helpers and the
    /// ssh command of the user's own configuration, never by those that a repository names, and
    /// without a question to anybody. A host that does not answer is given up after 15 s.
    #[must_use]
    pub fn over_network(self) -> Self {
        let mine = mine();
        let of = |wanted: &str| mine.iter().rfind(|(name, _)| name == wanted);
        let ssh = of("core.sshcommand").map_or("ssh", |(_, value)| value.as_str());
        let mut git = self
            .config(
                "core.sshCommand",
                &format!("{ssh} -o BatchMode=yes -o ConnectTimeout={CONNECT_SECONDS}"),
            )
            .config("http.lowSpeedLimit", "1")
            .config("http.lowSpeedTime", &CONNECT_SECONDS.to_string());
        for (name, value) in &mine {
            if name.starts_with("credential.") && name.ends_with(".helper") {
                git = git.config(name, value);
            }
        }
        git
    }

    /// Lets a commit be signed by the program that the user's own configuration names, within 30 s.
    #[must_use]
    pub fn signed(self) -> Self {
        let mine = mine();
        let mut git = self.config("commit.gpgSign", "true").timeout(SIGNING);
        for (key, other, usual) in SIGNERS {
            let named = mine.iter().rfind(|(name, _)| name == key || name == other);
            git = git.config(key, named.map_or(usual, |(_, value)| value.as_str()));
        }
        git
    }
}

/// The user's and the machine's configuration: names in lower case, in the order in which git
/// reads them. What a condition guards (`includeIf`) is not used: whether it applies may be a
/// repository's to say.
fn mine() -> Vec<(String, String)> {
    let mut all = Vec::new();
    let config = git2::Config::open_default().and_then(|mut config| config.snapshot());
    if let Ok(config) = &config
        && let Ok(mut entries) = config.entries(None)
    {
        while let Some(Ok(entry)) = entries.next() {
            if let (Ok(name), Ok(value)) = (entry.name(), entry.value()) {
                all.push((name.to_owned(), value.to_owned()));
            }
        }
    }
    all
}
