mod client_hello;
mod http_head;
mod laws;
mod proxy_protocol;
