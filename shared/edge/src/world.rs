//! A world that stands in for the real one, for all that runs on one thread.

use crate::clock::Side;
use std::cell::RefCell;
use std::fmt::Debug;
use std::future::Future;
use std::io;
use std::marker::PhantomData;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite};

/// Something to wait for.
pub type Waiting<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// One end of a connection.
pub trait Wire: AsyncRead + AsyncWrite + Debug + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Debug + Send + Unpin> Wire for T {}

/// What a listener listens at.
pub trait Door: Debug + Send {
    /// The next connection, and whose it is.
    fn accept(&mut self) -> Waiting<(Box<dyn Wire>, SocketAddr)>;
}

/// The disk under one database.
pub trait Disk: Debug + Send + Sync {
    /// Waited for before a transaction begins, before it is committed, and after: never over once
    /// the machine is off.
    fn wait(&self) -> Waiting<()>;

    /// Whether the machine is off: nothing is read or written any more.
    fn is_off(&self) -> bool;
}

/// The world.
pub trait World {
    /// The wall clock of a side, in milliseconds since 1970.
    fn millis(&self, side: Side) -> i64;

    /// Milliseconds since the machines booted: a clock that nobody sets.
    fn since_boot(&self) -> u64;

    /// A number in 0..1.
    fn roll(&self, side: Side) -> f64;

    /// Connects to a host.
    fn dial(&self, host: &str, port: u16) -> Waiting<io::Result<Box<dyn Wire>>>;

    /// Listens.
    ///
    /// # Errors
    /// When somebody listens there already.
    fn listen(&self, at: SocketAddr) -> io::Result<Box<dyn Door>>;

    /// The disk that a database lies on.
    fn disk(&self, file: &Path) -> Arc<dyn Disk>;

    /// Whether the fault of this name is planted.
    fn planted(&self, name: &str) -> bool;
}

thread_local! {
    static WORLD: RefCell<Option<Rc<dyn World>>> = const { RefCell::new(None) };
}

/// The world of this thread, where one stands in.
pub(crate) fn present() -> Option<Rc<dyn World>> {
    // a thread that ends has none any more
    WORLD.try_with(|world| world.borrow().clone()).ok().flatten()
}

/// Puts `world` in the place of the real one, on this thread, until the answer is dropped.
#[must_use]
pub fn enter(world: Rc<dyn World>) -> Entered {
    WORLD.with(|place| place.replace(Some(world)));
    Entered(PhantomData)
}

/// Keeps a world in place.
#[derive(Debug)]
pub struct Entered(PhantomData<Rc<()>>);

impl Drop for Entered {
    fn drop(&mut self) {
        // the world may hold what is dropped with it, and that may ask for the world
        drop(WORLD.with(RefCell::take));
    }
}
