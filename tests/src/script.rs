//! What a scripted agent is told to do: a list of steps, handed over as JSON in its argument.

use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// One step. Paths that are not absolute lie in the agent's folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub enum Step {
    /// Adds a line `start <pid> <start ticks>` to a file that is only ever added to: how often
    /// agents of one script began.
    Sign {
        /// The file.
        ledger: PathBuf,
    },
    /// Prints text.
    Print {
        /// The text.
        text: String,
    },
    /// Prints bytes of [`crate::pattern::lines`].
    Lines {
        /// Which ones.
        seed: u64,
        /// How many.
        count: usize,
        /// How many at a time.
        chunk: usize,
    },
    /// Prints [`crate::pattern::ODD`], some bytes at a time.
    Odd {
        /// How many times.
        times: usize,
        /// How many bytes at a time.
        chunk: usize,
    },
    /// Prints numbered lines until a file is there. Each is in the ledger before it is printed.
    Stream {
        /// Copy of all that was printed.
        ledger: PathBuf,
        /// The file that ends it.
        until: PathBuf,
    },
    /// Waits until a file is there; gives up, and ends with code 99, after two minutes.
    Await {
        /// The file.
        file: PathBuf,
    },
    /// Waits some milliseconds. Only where time itself is the matter.
    Linger {
        /// How many.
        ms: u64,
    },
    /// Writes a file anew.
    Write {
        /// The file.
        path: PathBuf,
        /// Its text.
        text: String,
    },
    /// Writes a file of so many bytes that cannot be packed.
    Blob {
        /// The file.
        path: PathBuf,
        /// How many bytes.
        bytes: usize,
    },
    /// Adds to a file.
    Append {
        /// The file.
        path: PathBuf,
        /// What to add.
        text: String,
    },
    /// Removes a file.
    Delete {
        /// The file.
        path: PathBuf,
    },
    /// Commits everything with git.
    Commit {
        /// The message.
        message: String,
    },
    /// Runs a command line with `sh -c`; ends with code 98 when that fails.
    Shell {
        /// The command line.
        line: String,
    },
    /// Starts processes that outlive the agent, and writes their numbers.
    Children {
        /// How many.
        count: u32,
        /// How many of them leave the agent's session.
        own_session: u32,
        /// Where their numbers go, one a line.
        ledger: PathBuf,
    },
    /// Stays through signals 1, 2 and 15.
    Stubborn,
    /// Lets the terminal pass every byte as it is, both ways.
    Raw,
    /// Reads from the terminal or pipe until so many bytes came, and writes them to a file.
    Read {
        /// How many.
        count: usize,
        /// Where they go.
        file: PathBuf,
    },
    /// Writes the environment as JSON.
    Environment {
        /// Where to.
        file: PathBuf,
    },
    /// Ends with this code.
    Exit {
        /// The code.
        code: i32,
    },
    /// Ends itself by this signal.
    Die {
        /// The signal's number.
        signal: i32,
    },
}

/// A script in the making.
#[derive(Clone, Debug, Default)]
pub struct Script(Vec<Step>);

impl Script {
    /// A script that does nothing, and ends with code 0.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Then this.
    #[must_use]
    pub fn then(mut self, step: Step) -> Self {
        self.0.push(step);
        self
    }

    /// Then sign the ledger of starts.
    #[must_use]
    pub fn sign(self, ledger: impl Into<PathBuf>) -> Self {
        self.then(Step::Sign { ledger: ledger.into() })
    }

    /// Then print.
    #[must_use]
    pub fn print(self, text: &str) -> Self {
        self.then(Step::Print { text: text.into() })
    }

    /// Then write a file.
    #[must_use]
    pub fn write(self, path: impl Into<PathBuf>, text: &str) -> Self {
        self.then(Step::Write { path: path.into(), text: text.into() })
    }

    /// Then wait for a file.
    #[must_use]
    pub fn wait_for(self, file: impl Into<PathBuf>) -> Self {
        self.then(Step::Await { file: file.into() })
    }

    /// Then run a command line.
    #[must_use]
    pub fn shell(self, line: &str) -> Self {
        self.then(Step::Shell { line: line.into() })
    }

    /// Then end with a code.
    #[must_use]
    pub fn exit(self, code: i32) -> Self {
        self.then(Step::Exit { code })
    }

    /// The command line that plays it.
    #[must_use]
    pub fn command(&self) -> Vec<String> {
        let text = crate::must("write a script", serde_json::to_string(&self.0));
        vec![crate::program::fake_agent().to_string_lossy().into_owned(), text]
    }
}
