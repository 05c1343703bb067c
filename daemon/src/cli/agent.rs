//! `hayward agent`.

use super::context::Context;
use super::print::table::{Table, fixed, flexible};
use super::print::tone::Tone;
use crate::client::read;
use crate::exit::{End, Outcome};
use hayward_daemon::agent::Runtime;
use hayward_daemon::agent::discover::{Found, PROBE_PATIENCE, discover, resolve, search_path};
use hayward_daemon::agent::environment::Variables;
use hayward_daemon::agent::login_shell::{PATIENCE, Silent};
use hayward_daemon::config::{AgentSection, Config, nearest};
use hayward_shared::api::DaemonView;
use hayward_shared::fault::{Code, Fault};
use serde::Serialize;
use serde_json::{Value, json};

/// How to get the agent that this version drives best.
const INSTALL: &str = "install Claude Code: npm install -g @anthropic-ai/claude-code";

/// What to do with agents.
#[derive(clap::Args)]
pub(crate) struct AgentArgs {
    #[command(subcommand)]
    command: AgentCommand,
}

#[derive(clap::Subcommand)]
enum AgentCommand {
    /// List what the daemons can run, and the agents that the configuration names
    Ls,
    /// Look now which agents this machine can run; exits 1 when the named one is not usable
    Check {
        /// Only this one
        name: Option<String>,
    },
}

/// What is known of one agent of this machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Checked {
    name: String,
    runtime: String,
    program: Option<String>,
    version: Option<String>,
    usable: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

impl Checked {
    /// Whether it takes a prompt and can be used.
    fn is_able(&self) -> bool {
        self.usable && self.runtime != Runtime::Command.name()
    }
}

/// Shows agents.
pub(crate) async fn run(args: AgentArgs, context: &Context) -> Outcome {
    match args.command {
        AgentCommand::Ls => list(context).await,
        AgentCommand::Check { name } => check(name.as_deref(), context).await,
    }
}

async fn list(context: &Context) -> Outcome {
    let agents = context.config()?.agents;
    let rows = context.client()?.all(&["api", "v1", "daemons"], &[], "daemons").await?;
    let views: Vec<DaemonView> = rows.iter().map(read).collect::<Result<_, _>>()?;
    if context.out.json() {
        let runtimes: Vec<_> = views.iter().flat_map(runtimes).collect();
        let agents: Vec<_> = agents.iter().map(|(name, agent)| configured(name, agent)).collect();
        context.out.value(&json!({ "runtimes": runtimes, "agents": agents }))?;
        return Ok(End::Done);
    }
    let columns =
        [fixed("AGENT"), flexible("VERSION"), fixed("STATE"), flexible("HOST"), flexible("REMARK")];
    let mut table = Table::new(&columns);
    for view in &views {
        for runtime in &view.runtimes {
            let state = match (view.online, runtime.healthy) {
                (false, _) => ("offline", Tone::Warn),
                (true, true) => ("ready", Tone::Good),
                (true, false) => ("unusable", Tone::Bad),
            };
            table.toned([
                (runtime.name.clone(), Tone::Plain),
                (runtime.version.clone().unwrap_or_default(), Tone::Plain),
                (state.0.to_owned(), state.1),
                (view.hostname.clone(), Tone::Plain),
                (runtime.reason.clone().unwrap_or_default(), Tone::Dim),
            ]);
        }
    }
    for (name, agent) in &agents {
        let runtime = agent.runtime.as_deref().unwrap_or(name);
        let remark = format!(
            "{runtime}{}",
            agent.model.as_ref().map_or(String::new(), |m| format!(", {m}"))
        );
        table.row([name.clone(), String::new(), "configured".into(), String::new(), remark]);
    }
    context.out.table(&table)?;
    Ok(End::Done)
}

/// The runtimes of a daemon, each with where it is.
fn runtimes(view: &DaemonView) -> Vec<Value> {
    let place = |runtime| {
        let mut row = json!(runtime);
        row["daemonId"] = json!(view.id);
        row["hostname"] = json!(view.hostname);
        row["online"] = json!(view.online);
        row
    };
    view.runtimes.iter().map(place).collect()
}

fn configured(name: &str, agent: &AgentSection) -> Value {
    // its environment may hold secrets: not shown
    json!({
        "name": name,
        "runtime": agent.runtime.as_deref().unwrap_or(name),
        "command": agent.command,
        "model": agent.model,
    })
}

/// What a look for agents on this machine found.
pub(super) struct Looked {
    /// Why the login shell told no PATH.
    pub(super) silent: Option<Silent>,
    rows: Vec<Checked>,
}

impl Looked {
    /// The names of those that take a prompt and can be used.
    pub(super) fn able(&self) -> Vec<&str> {
        self.rows.iter().filter(|row| row.is_able()).map(|row| row.name.as_str()).collect()
    }
}

/// Looks for agents on this machine, as its daemon does at its start.
pub(super) async fn look(config: &Config) -> Looked {
    // names and values that are no UTF-8 do not enter
    let parent: Variables = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    let search = search_path(&parent, PATIENCE).await;
    let found = discover(&search.path, &parent, PROBE_PATIENCE).await;
    Looked { rows: checked(&found, config, &search.path), silent: search.silent }
}

async fn check(wanted: Option<&str>, context: &Context) -> Outcome {
    let Looked { silent, mut rows } = look(&context.config()?).await;
    if let Some(silent) = &silent {
        context.out.note(Tone::Warn, &crate::exit::chain(silent));
    }
    if let Some(wanted) = wanted {
        rows = vec![pick(wanted, rows)?];
    }
    if context.out.json() {
        context.out.value(&json!({ "agents": rows }))?;
    } else {
        show(&rows, context)?;
    }
    let bad = wanted.is_some() && rows.iter().any(|row| !row.usable);
    Ok(if bad { End::Unsuccessful } else { End::Done })
}

/// All that was found, then what the configuration makes of it.
fn checked(found: &[Found], config: &Config, path: &str) -> Vec<Checked> {
    let of = |found: &Found| Checked {
        name: found.name.name().to_owned(),
        runtime: found.name.name().to_owned(),
        program: found.program.as_ref().map(|program| program.display().to_string()),
        version: found.version.clone(),
        usable: found.healthy && found.driven,
        reason: found.reason.clone(),
    };
    let mut rows: Vec<_> = found.iter().map(of).collect();
    for (name, agent) in &config.agents {
        let row = configured_one(name, agent, &rows, path);
        rows.retain(|row| row.name != *name);
        rows.push(row);
    }
    rows
}

fn configured_one(name: &str, agent: &AgentSection, found: &[Checked], path: &str) -> Checked {
    let runtime = agent.runtime.as_deref().unwrap_or(name);
    let base = found.iter().find(|row| row.name == runtime);
    let mut row = Checked {
        name: name.to_owned(),
        runtime: runtime.to_owned(),
        program: base.and_then(|base| base.program.clone()),
        version: base.and_then(|base| base.version.clone()),
        usable: base.is_some_and(|base| base.usable),
        reason: match base {
            Some(base) => base.reason.clone(),
            None => Some(format!("{runtime} is not installed where agents are looked for")),
        },
    };
    if let Some(command) = &agent.command {
        let word = command.split_whitespace().next().unwrap_or_default();
        let program = resolve(word, path);
        row.usable = program.is_some();
        row.reason = program.is_none().then(|| format!("no program '{word}'"));
        row.program = program.map(|program| program.display().to_string());
        row.version = None;
    }
    row
}

fn pick(wanted: &str, rows: Vec<Checked>) -> Result<Checked, Fault> {
    let names: Vec<_> = rows.iter().map(|row| row.name.clone()).collect();
    if let Some(row) = rows.into_iter().find(|row| row.name == wanted) {
        return Ok(row);
    }
    let message = format!("no agent '{wanted}' on this machine");
    let hint = match nearest(wanted, names.iter().map(String::as_str)) {
        _ if wanted == Runtime::Claude.name() => INSTALL.to_owned(),
        Some(near) if near != Runtime::Command.name() => format!("did you mean '{near}'?"),
        _ => "hayward agent check shows what is there".to_owned(),
    };
    Err(Fault::new(Code::Failed, message).with_hint(hint))
}

fn show(rows: &[Checked], context: &Context) -> Result<(), Fault> {
    let columns = [
        fixed("AGENT"),
        fixed("STATE"),
        flexible("VERSION"),
        flexible("PROGRAM"),
        flexible("REMARK"),
    ];
    let mut table = Table::new(&columns);
    for row in rows {
        let state = if row.usable { ("ready", Tone::Good) } else { ("unusable", Tone::Bad) };
        table.toned([
            (row.name.clone(), Tone::Plain),
            (state.0.to_owned(), state.1),
            (row.version.clone().unwrap_or_default(), Tone::Plain),
            (row.program.clone().unwrap_or_default(), Tone::Plain),
            (row.reason.clone().unwrap_or_default(), Tone::Dim),
        ]);
    }
    context.out.table(&table)?;
    if !rows.iter().any(Checked::is_able) {
        let hint = format!(
            "no agent here takes a prompt: {INSTALL}; or give a command: hayward run -- COMMAND"
        );
        context.out.note(Tone::Warn, &hint);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(name: Runtime, healthy: bool) -> Found {
        let driven = name.driver().is_some();
        Found { name, program: None, version: None, healthy, reason: None, driven }
    }

    #[test]
    fn a_configured_agent_is_as_usable_as_its_runtime_or_its_command() {
        let mut config = Config::default();
        let section = |runtime: Option<&str>, command: Option<&str>| AgentSection {
            runtime: runtime.map(str::to_owned),
            command: command.map(str::to_owned),
            ..AgentSection::default()
        };
        config.agents.insert("mine".into(), section(Some("claude"), None));
        config.agents.insert("shell".into(), section(Some("command"), Some("/bin/sh -c x")));
        config.agents.insert("gone".into(), section(Some("command"), Some("/no/such")));
        config.agents.insert("odd".into(), section(None, None));
        let rows =
            checked(&[found(Runtime::Claude, true), found(Runtime::Codex, true)], &config, "");
        let usable: Vec<_> = rows.iter().filter(|row| row.usable).map(|row| &*row.name).collect();
        assert_eq!(usable, ["claude", "mine", "shell"]);
        assert_eq!(pick("claud", rows).unwrap_err().code, Code::Failed);
    }
}
