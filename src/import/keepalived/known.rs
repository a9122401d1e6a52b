//! What lockgate has no need of, and what it cannot do, by the words of keepalived.

use super::super::ledger::{Kind, Ledger};
use super::super::tree::Node;

const NOTIFY: &str = "there is one program for every change: notify, which gets the new state as \
                      its third argument";
const MAIL: &str = "alerts belong to what reads the metrics; see config/prometheus";
const BY_ITSELF: &str = "lockgate sees to this by itself";
const SYSTEMD: &str = "the service manager sees to this";

/// Says what is known of a directive that nobody has said anything of, and of all that is in it.
pub(super) fn account(node: &Node, ledger: &mut Ledger) {
    if !ledger.is_accounted_for(node.id)
        && let Some((kind, why)) = verdict(node.name())
    {
        match kind {
            Kind::Needless => node.all_needless(why, ledger),
            _ => node.all_lost(why, ledger),
        }
    }
}

fn verdict(name: &str) -> Option<(Kind, &'static str)> {
    use Kind::{Lost, Needless};
    Some(match name {
        "state" => (Needless, "the priorities decide who begins"),
        "authentication" | "auth_type" | "auth_pass" => (
            Lost,
            "RFC 3768 removed authentication: gateways that still ask for it do not hear lockgate, \
             so replace both",
        ),
        "notify_master"
        | "notify_backup"
        | "notify_fault"
        | "notify_stop"
        | "notify_deleted"
        | "notify_master_rx_lower_pri"
        | "notify"
        | "notify_fifo"
        | "notify_fifo_script"
        | "vrrp_notify_fifo"
        | "vrrp_notify_fifo_script"
        | "lvs_notify_fifo"
        | "lvs_notify_fifo_script"
        | "notify_priority_changes"
        | "vrrp_notify_priority_changes" => (Lost, NOTIFY),
        "smtp_alert"
        | "notification_email"
        | "notification_email_from"
        | "smtp_server"
        | "smtp_connect_timeout"
        | "smtp_helo_name"
        | "smtp_alert_vrrp"
        | "smtp_alert_checker"
        | "email_faults"
        | "no_email_faults"
        | "alert" => (Lost, MAIL),
        "virtual_routes"
        | "static_routes"
        | "virtual_rules"
        | "static_rules"
        | "static_ipaddress"
        | "linkbeat_interfaces" => (
            Lost,
            "lockgate has addresses only: leave routes and rules to the network configuration",
        ),
        "mcast_src_ip" | "vrrp_mcast_group4" | "vrrp_mcast_group6" => {
            (Lost, "adverts go to the group of the protocol, from the address of the interface")
        }
        "track_file" | "vrrp_track_file" | "track_bfd" | "bfd_instance" | "vrrp_track_process"
        | "vrrp_script" | "track_process" | "track_script" => {
            (Lost, "no scripts, files or processes decide: use track_pools")
        }
        "dont_track_primary" => (Lost, "an instance without its interface is never master"),
        "lvs_sync_daemon_interface"
        | "lvs_sync_daemon"
        | "lvs_flush"
        | "lvs_flush_on_stop"
        | "lvs_timeouts" => (Needless, "connections are not in the kernel's tables (IPVS)"),
        "garp_master_delay"
        | "garp_master_refresh_repeat"
        | "garp_lower_prio_delay"
        | "garp_lower_prio_repeat"
        | "lower_prio_no_advert"
        | "higher_prio_send_advert"
        | "garp_interval"
        | "gna_interval"
        | "garp_extra_if"
        | "down_timer_adverts"
        | "vrrp_garp_master_delay"
        | "vrrp_garp_lower_prio_delay"
        | "vrrp_garp_lower_prio_repeat"
        | "vrrp_garp_interval"
        | "vrrp_gna_interval"
        | "vrrp_garp_master_refresh_repeat"
        | "vrrp_lower_prio_no_advert"
        | "vrrp_higher_prio_send_advert"
        | "vrrp_min_garp"
        | "vrrp_garp_extra_if"
        | "vrrp_down_timer_adverts" => (
            Needless,
            "announcements are repeated at growing distances, and again when somebody else has \
             been master",
        ),
        "vmac_xmit_base"
        | "native_ipv6"
        | "old_unicast_checksum"
        | "check_unicast_src"
        | "skip_check_adv_addr"
        | "vrrp_skip_check_adv_addr"
        | "strict_mode"
        | "vrrp_strict"
        | "vrrp_iptables"
        | "vrrp_ipsets"
        | "vrrp_nftables"
        | "vrrp_check_unicast_src"
        | "accept"
        | "no_accept"
        | "no_virtual_ipaddress"
        | "promote_secondaries"
        | "kernel_rx_buf_size"
        | "debug"
        | "vrrp_version"
        | "unicast_ttl"
        | "ttl"
        | "min_ttl"
        | "max_ttl"
        | "dynamic_interfaces"
        | "nftables"
        | "nftables_counters"
        | "vrrp_rx_bufs_policy"
        | "vrrp_rx_bufs_multiplier"
        | "vrrp_netlink_cmd_rcv_bufs"
        | "lvs_netlink_cmd_rcv_bufs"
        | "use_ipvlan"
        | "vmac_prefix"
        | "vmac_addr_prefix"
        | "vrrp_startup_delay"
        | "vrrp_owner_ignore_adverts"
        | "owner_ignore_adverts"
        | "disable_local_igmp"
        | "default_interface"
        | "vrrp_unicast_ttl" => (Needless, BY_ITSELF),
        "script_user"
        | "enable_script_security"
        | "max_auto_priority"
        | "vrrp_priority"
        | "checker_priority"
        | "bfd_priority"
        | "vrrp_no_swap"
        | "checker_no_swap"
        | "bfd_no_swap"
        | "vrrp_rt_priority"
        | "checker_rt_priority"
        | "bfd_rt_priority"
        | "vrrp_rlimit_rtime"
        | "vrrp_rlimit_rttime"
        | "checker_rlimit_rttime"
        | "bfd_rlimit_rttime"
        | "vrrp_process_name"
        | "checker_process_name"
        | "process_names"
        | "process_name"
        | "use_pid_dir"
        | "rlimit"
        | "vrrp_cpu_affinity"
        | "checker_cpu_affinity"
        | "reload_time_file"
        | "reload_repeat"
        | "reload_file"
        | "reload_check_config"
        | "tmp_config_directory"
        | "umask"
        | "instance"
        | "child_wait_time"
        | "shutdown_script"
        | "startup_script"
        | "shutdown_script_timeout"
        | "startup_script_timeout"
        | "config_copy_directory"
        | "min_auto_priority_delay" => (Needless, SYSTEMD),
        "net_namespace" | "net_namespace_ipvs" => {
            (Lost, "start lockgate inside of it, as `ip netns exec` or NetworkNamespacePath= do")
        }
        "enable_snmp_keepalived"
        | "enable_snmp_vrrp"
        | "enable_snmp_rfc"
        | "enable_snmp_rfcv2"
        | "enable_snmp_rfcv3"
        | "enable_snmp_checker"
        | "enable_traps"
        | "snmp_socket"
        | "enable_dbus"
        | "dbus_service_name"
        | "dbus_no_interface_name"
        | "json_version" => (Lost, "ask admin.http, for /metrics or /v1/status"),
        "quorum"
        | "hysteresis"
        | "quorum_up"
        | "quorum_down"
        | "notify_up"
        | "notify_down"
        | "virtualhost"
        | "ha_suspend"
        | "alpha"
        | "omega"
        | "no_ops"
        | "ops"
        | "lb_kind"
        | "lvs_method"
        | "retry"
        | "delay_before_retry"
        | "warmup"
        | "inhibit_on_failure"
        | "persistence_granularity"
        | "persistence_engine"
        | "lthreshold"
        | "log_all_failures"
        | "snmp_name"
        | "sorry_server_inhibit"
        | "sorry_server_lvs_method"
        | "smtp_alert_real"
        | "connect_timeout"
        | "bind_if"
        | "fwmark"
        | "hashed"
        | "flag-1"
        | "flag-2" => (Lost, "there is nothing like it for a pool"),
        "virtual_server_group" => (Lost, "no virtual server that is carried over is of this group"),
        "MISC_CHECK" | "SMTP_CHECK" | "DNS_CHECK" | "BFD_CHECK" | "UDP_CHECK" | "PING_CHECK"
        | "FILE_CHECK" => (Lost, "checks are tcp, tls, http and send_expect"),
        _ => return None,
    })
}
