# Licensed under the Apache License, Version 2.0 (the "License"); you may
# not use this file except in compliance with the License. You may obtain
# a copy of the License at
#
#      http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS, WITHOUT
# WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied. See the
# License for the specific language governing permissions and limitations
# under the License.


"""Options of Glance: those that a sites file gives, and reserved names."""

from __future__ import annotations

import re
import typing

from glance_dcn.deploy import sitesfile

if typing.TYPE_CHECKING:
    from collections.abc import Callable

    from glance_dcn.deploy import model

_GROUP = re.compile(r'[A-Za-z0-9_][A-Za-z0-9_.:-]*', re.ASCII)
_OPTION = re.compile(r'[A-Za-z0-9_][A-Za-z0-9_-]*', re.ASCII)

# Where they come from instead.
_OURS = {
    ('DEFAULT', 'enabled_backends'): 'sites',
    ('DEFAULT', 'enabled_import_methods'): 'import_methods',
    ('DEFAULT', 'worker_self_reference_url'): 'workers',
    ('DEFAULT', 'image_cache_max_size'): 'cache_size',
    ('DEFAULT', 'node_staging_uri'): 'staging',
    ('glance_store', 'default_backend'): 'sites',
    ('image_import_opts', 'image_import_plugins'): 'import_plugins',
    ('os_glance_staging_store', 'filesystem_store_datadir'): 'staging',
    ('glance_dcn', 'sites_dir'): 'paths',
}
# The same, of any store: the values compared with those of other sites must be
# those that Glance gets.
_OF_STORES = {
    'rbd_store_ceph_conf': 'cluster',
    'rbd_store_user': 'cluster',
    'rbd_store_pool': 'pool',
}
# Groups that TripleO and the operators on Kubernetes write themselves, with
# secrets that a sites file does not have.
_DEPLOYERS = frozenset((
    'barbican', 'barbican_service_user', 'database', 'keystone_authtoken',
    'oslo_limit', 'oslo_messaging_notifications', 'oslo_messaging_rabbit',
    'paste_deploy', 'service_user'))
# Options that hold a password or a key.
_SECRET = re.compile(r'password|secret(?!_name)|passphrase|(^|_)key$'
                     r'|(^|_)(root|admin|auth)_token(_id)?$'
                     '|^(approle_role_id|hmac_keys|token)$')
# A password may have any character; better to hide too much.
_USER_INFO = re.compile(r'://\S*:\S*@')


def read(path: str, node: sitesfile.Node,
         reference: Callable[[sitesfile.Node, str], model.Secret]
         ) -> model.Options:
    """Return options by (group, option).

    :param node: mapping of groups, each a mapping of options
    :param reference: called with the node and the name of an option that is
        a mapping
    :raises sitesfile.Mistake: if they cannot be options
    """
    groups = _mapping(path, node, 'glance')
    found: model.Options = {}
    for group, node in groups.items.items():
        if not _GROUP.fullmatch(group):
            raise sitesfile.Mistake(path, groups.lines[group],
                                    '%r is no group of options' % group[:60])
        options = _mapping(path, node, group)
        for option, value in options.items.items():
            line = options.lines[option]
            if not _OPTION.fullmatch(option):
                raise sitesfile.Mistake(path, line,
                                        '%r is no option' % option[:60])
            # Groups are told apart without regard to case, but DEFAULT.
            known = group if group == 'DEFAULT' else group.lower()
            source = _OURS.get((known, option)) or _OF_STORES.get(option)
            if source:
                raise sitesfile.Mistake(
                    path, line, '[%s] %s follows from the key %s of the sites '
                    'file' % (group, option, source))
            if isinstance(value, sitesfile.Mapping):
                found[group, option] = reference(value, option)
            else:
                text = sitesfile.text_of(path, value, option)
                if is_secret(option) or has_password(text):
                    raise sitesfile.Mistake(
                        path, line, '%s is a secret and must not stand here '
                        'itself, but as {file: PATH} or {env: NAME}' % option)
                found[group, option] = text
    return found


def without_deployers(found: model.Options
                      ) -> tuple[dict[tuple[str, str], str], list[str]]:
    """Return options that another deployer leaves to a sites file.

    A group that it writes itself would have its options replaced by those
    here, and without its secrets it is of no use.

    :returns: tuple of those whose values are text, and a list of those left
        out: groups, and single options of [DEFAULT], as people write them
    """
    secret = {name for name, value in found.items()
              if not isinstance(value, str)}
    left = {group for group, _option in found if group.lower() in _DEPLOYERS}
    left.update(group for group, _option in secret if group != 'DEFAULT')
    single = {name for name in secret if name[0] == 'DEFAULT'}
    return ({name: value for name, value in found.items()
             if isinstance(value, str) and name[0] not in left},
            ['[%s] %s' % name for name in sorted(single)]
            + ['[%s]' % group for group in sorted(left)])


def is_secret(option: str) -> bool:
    """Return whether an option is a password or a key by its name."""
    return bool(_SECRET.search(option))


def has_password(text: str) -> bool:
    """Return whether a value is a URL with a password."""
    return bool(_USER_INFO.search(text))


def _mapping(path: str, node: sitesfile.Node, what: str) -> sitesfile.Mapping:
    if not isinstance(node, sitesfile.Mapping):
        raise sitesfile.Mistake(path, node.line, '%s must be a mapping, but '
                                'this is %s' % (what, node.kind))
    return node


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Names that no store can have. The options of a store stand in the group named
# after it: a group of Glance or of a library would be mixed up with it, and an
# option of [DEFAULT], or what else oslo.config knows by name, be hidden behind
# it. Those of Glance 22 to 33, so that a sites file is judged alike wherever
# it is read.
_RESERVED_GROUPS = _words("""
    audit_middleware_notifications backend_defaults barbican
    barbican_service_user cache cors database glance_dcn
    glance_download_properties glance_store healthcheck image_conversion
    image_format image_import_opts import_filtering_opts
    inject_metadata_properties key_manager keystone_authtoken matchmaker_redis
    os_brick os_vendordata oslo_concurrency oslo_limit oslo_messaging_amqp
    oslo_messaging_kafka oslo_messaging_notifications oslo_messaging_rabbit
    oslo_messaging_zmq oslo_middleware oslo_middleware_tracing oslo_policy
    oslo_reports oslo_service oslo_versionedobjects paste_deploy profiler
    profiler_jaeger profiler_otlp sample_castellan_source
    sample_remote_file_source service_user ssl store_type_location_strategy
    task taskflow_executor vault wsgi
""")
_RESERVED_OPTIONS = _words("""
    admin_role allow_additional_image_properties allow_anonymous_access
    api_limit_max api_paste_config backdoor_port backdoor_socket backlog
    bind_host bind_port ca_file cache_prefetcher_interval cert_file
    client_socket_timeout config_dir config_file config_source
    conn_pool_min_size control_exchange daemon data_api debug
    default_log_levels default_publisher_id delayed_delete digest_algorithm
    disabled_notifications do_secure_hash enable_v1_api enable_v2_api
    enabled_backends enabled_import_methods executor_thread_pool_size
    fatal_deprecations filesystem_store_metadata_file graceful_shutdown_timeout
    hashing_algorithm http_keepalive http_retries image_cache_dir
    image_cache_driver image_cache_max_size image_cache_sqlite_db
    image_cache_stall_time image_location_quota image_member_quota
    image_prefetcher_interval image_property_quota image_size_cap
    image_tag_quota instance_format instance_uuid_format key_file
    limit_param_default location_strategy lock_path log_color log_config_append
    log_date_format log_dir log_file log_options log_rotate_interval
    log_rotate_interval_type log_rotation_type logdir logfile
    logging_context_format_string logging_debug_format_suffix
    logging_default_format_string logging_exception_prefix
    logging_user_identity_format max_header_line max_logfile_count
    max_logfile_size_mb max_request_id_length metadata_encryption_key
    node_staging_uri notification_driver owner_is_tenant
    property_protection_file property_protection_rule_format public_endpoint
    publish_errors pydev_worker_debug_host pydev_worker_debug_port
    rate_limit_burst rate_limit_except_level rate_limit_interval registry_host
    restore rpc_backend rpc_ping_enabled rpc_response_timeout
    run_external_periodic_tasks scrub_pool_size scrub_time
    secure_proxy_ssl_header shell_completion show_image_direct_url
    show_multiple_locations syslog syslog_log_facility tcp_keepalive
    tcp_keepidle transport_url use_journal use_json use_keystone_limits
    use_stderr use_syslog use_user_token user_storage_quota verbose wakeup_time
    worker_self_reference_url workers wsgi_default_pool_size wsgi_keep_alive
    wsgi_log_format wsgi_server_debug
""")
# Attributes of oslo_config.cfg.ConfigOpts.
_RESERVED_ATTRIBUTES = _words("""
    GroupAttr StrSubWrapper SubCommandAttr Template args clear clear_default
    clear_override config_dirs default_config_dirs default_config_files
    disallow_names export_state find_file get get_location import_group
    import_opt import_state items keys list_all_sections log_opt_values
    mutate_config_files print_help print_usage prog project register_cli_opt
    register_cli_opts register_group register_mutate_hook register_opt
    register_opts reload_config_files reset set_default set_override
    supported_shell_completion unregister_opt unregister_opts usage values
    version
""")


def reserved_for(name: str) -> str | None:
    """Return the use for which a name cannot be that of a store, or None."""
    if name.lower().startswith('os_glance'):
        return 'a store of Glance\'s own'
    # Groups are told apart without regard to case.
    if name.lower() in _RESERVED_GROUPS:
        return 'the group [%s] of Glance\'s options' % name.lower()
    if name in _RESERVED_OPTIONS:
        return 'the option %s of Glance' % name
    return 'a word of oslo.config' if name in _RESERVED_ATTRIBUTES else None
