mod client_hello;
mod first_bytes;
mod http_head;
mod laws;
mod proxy_protocol;
