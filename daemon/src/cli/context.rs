//! What every command is given: the global options, made useful.

use super::print::tone::Tone;
use super::print::{Output, Wishes};
use super::typed::Typed;
use crate::client::{Client, Doc, Finder, Reach, near};
use crate::exit::OrFault;
use hayward_daemon::config::Config;
use hayward_daemon::home::Home;
use hayward_shared::fault::{Code, Fault};
use hayward_shared::task::Task;
use std::path::{Path, PathBuf};

/// The options that every command takes, before or after its name.
#[derive(clap::Args, Clone)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Globals {
    /// Print results as JSON on stdout, and nothing else there
    #[arg(long, global = true)]
    pub(crate) json: bool,

    /// The state folder [default: ~/.hayward]
    #[arg(long, global = true, value_name = "DIR", env = "HAYWARD_HOME", hide_env_values = true)]
    pub(crate) home: Option<PathBuf>,

    /// The relay to talk to [default: the configured one, else that of the running daemon]
    #[arg(long, global = true, value_name = "URL", env = "HAYWARD_RELAY", hide_env_values = true)]
    pub(crate) relay: Option<String>,

    /// The token to show the relay [default: the file `token` of the state folder]
    #[arg(long, global = true, value_name = "T", env = "HAYWARD_TOKEN", hide_env_values = true)]
    pub(crate) token: Option<String>,

    /// Say only what went wrong
    #[arg(short, long, global = true)]
    pub(crate) quiet: bool,

    /// Say more
    #[arg(short, long, global = true)]
    pub(crate) verbose: bool,

    /// Print no colours; NO_COLOR in the environment means the same
    #[arg(long, global = true)]
    pub(crate) no_color: bool,
}

/// The global options, and what follows from them. Makes nothing until it is asked.
pub(crate) struct Context {
    globals: Globals,
    /// Where results and messages go.
    pub(crate) out: Output,
}

impl Context {
    /// The context of this process.
    pub(crate) fn new(mut globals: Globals) -> Self {
        // a variable that is set and empty says nothing
        globals.home = globals.home.filter(|home| !home.as_os_str().is_empty());
        globals.relay = globals.relay.filter(|relay| !relay.is_empty());
        globals.token = globals.token.filter(|token| !token.is_empty());
        let out = Output::new(wishes(&globals));
        Self { globals, out }
    }

    /// The same wishes for the output, on another state folder and the relay that is there.
    pub(crate) fn at(&self, home: &Path) -> Self {
        let home = Some(home.to_owned());
        Self::new(Globals { home, relay: None, token: None, ..self.globals.clone() })
    }

    /// The state folder; made when it is not there.
    pub(crate) fn home(&self) -> Result<Home, Fault> {
        let user = std::env::var_os("HOME").map(PathBuf::from);
        Home::open(self.globals.home.as_deref(), user.as_deref()).or_fault(Code::Failed)
    }

    /// `config.toml` of the state folder.
    pub(crate) fn config(&self) -> Result<Config, Fault> {
        Config::read(&self.home()?.config()).or_fault(Code::Invalid)
    }

    /// The relay that `--relay` names.
    pub(crate) fn relay(&self) -> Option<&str> {
        self.globals.relay.as_deref()
    }

    /// The token that `--token` gives.
    pub(crate) fn token(&self) -> Option<&str> {
        self.globals.token.as_deref()
    }

    /// Whether messages for people are to say more.
    pub(crate) fn is_verbose(&self) -> bool {
        self.globals.verbose
    }

    /// Finds the relay, each time anew.
    pub(crate) fn finder(&self) -> Result<Finder, Fault> {
        let Globals { relay, token, .. } = &self.globals;
        Ok(Finder { relay: relay.clone(), token: token.clone(), home: self.home()? })
    }

    /// Speaks to the relay.
    pub(crate) fn client(&self) -> Result<Client, Fault> {
        Client::new(self.finder()?.place()?)
    }

    /// Finds a task and the ways to it: while the relay is away, on this machine; that is told.
    pub(crate) async fn find(&self, id: &Typed) -> Result<(Reach, Doc<Task>), Fault> {
        let (reach, task, away) = Reach::find(self.finder()?, &id.task()?).await?;
        if let Some(away) = away {
            self.tell_near(&away);
        }
        Ok((reach, task))
    }

    /// Asks the relay; while it is away this machine's daemon, which knows what ran here. That is
    /// told.
    pub(crate) async fn ask<T>(
        &self,
        question: impl AsyncFn(Client) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        let asked = match self.client() {
            Ok(client) => question(client).await,
            Err(fault) => Err(fault),
        };
        match asked {
            Err(away) if away.code == Code::Unavailable => {
                let told = near(&self.finder()?, &away, question).await?;
                self.tell_near(&away);
                Ok(told)
            }
            answer => answer,
        }
    }

    fn tell_near(&self, away: &Fault) {
        let text = format!("{away}; this machine's daemon answers, for what ran here alone");
        self.out.note(Tone::Warn, &text);
    }
}

/// What these options ask of the output.
pub(crate) fn wishes(globals: &Globals) -> Wishes {
    let forbidden = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    Wishes {
        json: globals.json,
        quiet: globals.quiet,
        verbose: globals.verbose,
        no_color: globals.no_color || forbidden,
    }
}

/// A path as people see it: their own folder is `~`.
pub(crate) fn homely(path: &Path) -> String {
    let user = std::env::var_os("HOME").map(PathBuf::from);
    match user.as_deref().and_then(|user| path.strip_prefix(user).ok()) {
        Some(rest) => Path::new("~").join(rest).display().to_string(),
        None => path.display().to_string(),
    }
}
