//! Which database a relay keeps its data in, as its user names it.

use sqlx::postgres::PgConnectOptions;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// A database: a SQLite file or a PostgreSQL database. Shown without its password.
#[derive(Clone, Debug)]
pub enum Database {
    /// A SQLite file; made, with mode 0600, when it is absent. Its folder must be there.
    Sqlite(PathBuf),
    /// A PostgreSQL database; it must be there, its tables are made.
    Postgres(Postgres),
}

/// Where a PostgreSQL database is, and how to get in.
#[derive(Clone)]
pub struct Postgres {
    pub(crate) options: Box<PgConnectOptions>,
}

impl fmt::Debug for Postgres {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl fmt::Display for Postgres {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = &self.options;
        write!(f, "postgres://{}@{}:{}", at.get_username(), at.get_host(), at.get_port())?;
        at.get_database().map_or(Ok(()), |name| write!(f, "/{name}"))
    }
}

/// The name is none of a database. It is not repeated: it may hold a password.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NotADatabase {
    /// It begins as a PostgreSQL address and does not go on as one.
    #[error(
        "the address of the PostgreSQL database cannot be read: it is postgres://USER:PASSWORD@HOST:PORT/NAME"
    )]
    Postgres,
    /// It names a kind of database that the relay does not know.
    #[error("'{0}://' is not a database that the relay knows: give a file, or postgres://…")]
    Kind(String),
    /// It is empty.
    #[error("the database has no name: give a file, or postgres://…")]
    Empty,
}

impl FromStr for Database {
    type Err = NotADatabase;

    /// `postgres://…` or `postgresql://…` is PostgreSQL; `sqlite:FILE` or `FILE` is SQLite.
    fn from_str(name: &str) -> Result<Self, NotADatabase> {
        if name.starts_with("postgres://") || name.starts_with("postgresql://") {
            let options = name.parse::<PgConnectOptions>().map_err(|_| NotADatabase::Postgres)?;
            return Ok(Self::Postgres(Postgres { options: Box::new(options) }));
        }
        // not names of files, but addresses written otherwise, perhaps with a password
        if name.starts_with("postgres") && name.contains(':') || name.contains("password=") {
            return Err(NotADatabase::Postgres);
        }
        let file = match name.strip_prefix("sqlite:") {
            Some(file) => file.strip_prefix("//").unwrap_or(file),
            None => match name.split_once("://") {
                Some((kind, _)) => return Err(NotADatabase::Kind(kind.to_owned())),
                None => name,
            },
        };
        if file.is_empty() {
            return Err(NotADatabase::Empty);
        }
        Ok(Self::Sqlite(PathBuf::from(file)))
    }
}

impl From<PathBuf> for Database {
    fn from(file: PathBuf) -> Self {
        Self::Sqlite(file)
    }
}

impl From<&PathBuf> for Database {
    fn from(file: &PathBuf) -> Self {
        Self::Sqlite(file.clone())
    }
}

impl From<&Path> for Database {
    fn from(file: &Path) -> Self {
        Self::Sqlite(file.to_owned())
    }
}

impl fmt::Display for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(file) => write!(f, "{}", file.display()),
            Self::Postgres(postgres) => write!(f, "{postgres}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_says_which_database_it_is() {
        let file = |name: &str| match name.parse::<Database>() {
            Ok(Database::Sqlite(file)) => file.display().to_string(),
            other => panic!("{name}: {other:?}"),
        };
        assert_eq!(file("relay.db"), "relay.db");
        assert_eq!(file("sqlite:/a/relay.db"), "/a/relay.db");
        assert_eq!(file("sqlite:///a/relay.db"), "/a/relay.db");
        let other = "mysql://root:geheim@h/x".parse::<Database>().unwrap_err();
        assert_eq!(other, NotADatabase::Kind("mysql".into()));
        assert_eq!("sqlite:".parse::<Database>().unwrap_err(), NotADatabase::Empty);
    }

    #[test]
    fn a_password_is_never_shown() {
        for name in [
            "postgres://me:geheim@db.example:6432/relay",
            "postgresql://db.example:6432/relay?user=me&password=geheim",
        ] {
            let database: Database = name.parse().unwrap();
            assert_eq!(database.to_string(), "postgres://me@db.example:6432/relay");
            assert!(!format!("{database:?}").contains("geheim"));
        }
        for name in [
            "postgres://me:geheim@db.example:port/relay",
            "postgres:me:geheim@db.example/relay",
            "host=db.example password=geheim",
        ] {
            let odd = name.parse::<Database>().unwrap_err();
            assert!(!format!("{odd} {odd:?}").contains("geheim"), "{name}");
        }
    }
}
