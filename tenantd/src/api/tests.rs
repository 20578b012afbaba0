//! The API over a real Unix socket, with an owner made of memory behind it.
