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


"""From the nodes of a sites file to the model."""

from __future__ import annotations

import dataclasses
import os
import re
import typing
import urllib.parse

from glance_dcn.deploy import cephconf
from glance_dcn.deploy import model
from glance_dcn.deploy import options
from glance_dcn.deploy import sitesfile
from glance_dcn.sites import folder
from glance_dcn.sites import worker_url

_TOP = ('sites', 'defaults', 'paths', 'import_methods', 'import_plugins',
        'glance', 'allow_inline_secrets', 'edge_access')
_SITE = ('name', 'description', 'central', 'store', 'cluster', 'pool',
         'chunk_size', 'weight', 'workers', 'staging', 'limits',
         'cache_size', 'operator', 'glance', 'edge_access', 'at_central',
         'from_central')
_DEFAULTS = ('pool', 'user', 'extra_pools', 'chunk_size', 'staging',
             'limits', 'cache_size', 'operator', 'glance')
_CLUSTER = ('name', 'conf', 'fsid', 'mons', 'user', 'key', 'extra_pools')
# Ceph, oslo.config and hiera each take some other characters for their own.
_PATH = re.compile(r'/[A-Za-z0-9_.@+/-]+', re.ASCII)
# What may stand in names that become parts of conf files and capabilities.
_WORD = re.compile(r'[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}', re.ASCII)
# Hosts become names of folders: none may be . or ..
_HOST = re.compile(r'[A-Za-z0-9:][A-Za-z0-9.:-]*', re.ASCII)
_QUANTITY = re.compile(r'[1-9][0-9]*(\.[0-9]+)?([kMGTPE]|[KMGTPE]i)?',
                       re.ASCII)
_LABEL = re.compile(r'[a-z0-9]([a-z0-9.-]{0,250}[a-z0-9])?', re.ASCII)
_Default = typing.TypeVar('_Default')
# Descriptions of these forms, for messages.
_FORMS = {
    _HOST: 'a name or address of a host',
    _QUANTITY: 'a quantity as Kubernetes has it, such as 10G',
    _LABEL: 'a name as Kubernetes has it, of lower-case letters, digits, . '
            'and -'}
_METHODS = (*model.IMPORT_METHODS, 'glance-download')


def load(path: sitesfile.Path) -> model.Deployment:
    """Return the deployment of a sites file.

    :raises sitesfile.Mistake: if anything in it is wrong
    """
    return build(os.fspath(path), sitesfile.load(path))


def build(path: str, root: sitesfile.Mapping) -> model.Deployment:
    """Return the deployment of nodes; paths in them are relative to path."""
    top = sitesfile.Fields(path, root, 'the sites file', _TOP)
    top.require('sites')
    return _Loader(path, top).deployment()


class _Loader:
    """Reads one sites file."""

    def __init__(self, path: str, top: sitesfile.Fields) -> None:
        self._path = path
        self._folder = os.path.dirname(os.path.abspath(path))
        self._top = top
        self._inline = top.flag('allow_inline_secrets')
        if self._inline and os.path.exists(path):
            model.Secret(path, top.line_of('allow_inline_secrets'),
                         file=path).check()
        self._paths = self._read_paths()
        self._defaults = top.fields('defaults', _DEFAULTS)

    def deployment(self) -> model.Deployment:
        node = self._top.node('sites')
        if not isinstance(node, sitesfile.Sequence) or not node.items:
            raise self._top.mistake('sites', 'sites must be a list of sites')
        sites = tuple(self._site(item) for item in node.items)
        _check_together(self._path, sites, self._top.line_of('sites'))
        return model.Deployment(
            self._path, sites, self._paths,
            self._methods(), self._plugins())

    def _merged(self, fields: sitesfile.Fields, key: str,
                kind: type) -> sitesfile.Fields:
        """Return Fields of what site and defaults say together.

        :param kind: dataclass whose fields are the keys
        """
        default = self._defaults.fields(key, _keys(kind))
        return fields.fields(key, _keys(kind)).over(default)

    def _holder(self, fields: sitesfile.Fields, key: str) -> sitesfile.Fields:
        """Return the Fields that have a key: the site's or the defaults."""
        return fields if key in fields else self._defaults

    def _read_paths(self) -> model.Paths:
        fields = self._top.fields('paths', _keys(model.Paths))
        paths = model.Paths(**{
            field.name: self._folder_of(fields, field.name,
                                        getattr(model.Paths, field.name))
            for field in dataclasses.fields(model.Paths)})
        # In each of them there are files NAME.conf.
        seen: dict[str, str] = {}
        for key in ('glance', 'ceph', 'sites'):
            other = seen.setdefault(getattr(paths, key), key)
            if other != key:
                raise fields.mistake(
                    key if key in fields else other,
                    '%s and %s cannot be one folder: files of one would '
                    'take the place of those of the other' % (other, key))
        return paths

    def _folder_of(self, fields: sitesfile.Fields, key: str,
                   default: _Default) -> str | _Default:
        text = fields.text(key, default)
        if not isinstance(text, str):
            return text
        if (not _PATH.fullmatch(text) or '..' in text.split('/')
                or os.path.normpath(text) in ('/', '//')):
            raise fields.mistake(key, '%s must be the absolute path of a '
                                 'folder, of letters, digits, _, ., @, + and '
                                 '-, without ..' % key)
        # POSIX keeps two slashes at the beginning.
        return '/' + os.path.normpath(text).lstrip('/')

    def _methods(self) -> tuple[str, ...]:
        methods = self._top.texts('import_methods') or model.IMPORT_METHODS
        for method in methods:
            if method not in _METHODS:
                raise self._top.mistake(
                    'import_methods', 'Glance has no import method %r%s; '
                    'there are: %s' % (
                        method, sitesfile.nearest(method, _METHODS),
                        ', '.join(_METHODS)))
        return methods

    def _plugins(self) -> tuple[str, ...]:
        plugins = self._top.texts('import_plugins') or model.IMPORT_PLUGINS
        wrong = None
        if not all(re.fullmatch('[a-z0-9_]+', name) for name in plugins):
            wrong = 'the name of a plugin has letters, digits and _'
        elif len(set(plugins)) < len(plugins):
            wrong = 'a plugin is given twice'
        elif model.IMPORT_PLUGINS[0] in plugins[1:]:
            wrong = '%s must be the first plugin' % model.IMPORT_PLUGINS[0]
        elif {'image_conversion', 'dcn_image_conversion'} <= set(plugins):
            wrong = ('image_conversion and dcn_image_conversion do the same; '
                     'one of them must go')
        if wrong:
            raise self._top.mistake('import_plugins', wrong)
        return plugins

    def _site(self, node: sitesfile.Node) -> model.Site:
        fields = sitesfile.Fields(self._path, node, 'a site', _SITE)
        name = self._name(fields, 'name')
        central = fields.flag('central')
        cluster = self._cluster(fields, name)
        if central and not cluster:
            raise fields.mistake('central', 'the central site %s needs a '
                                 'cluster' % name)
        if 'store' in fields and not cluster:
            raise fields.mistake('store', 'site %s has no cluster, and so '
                                 'no store' % name)
        store = ''
        if cluster:
            key = 'store' if 'store' in fields else 'name'
            store = self._name(fields, key)
            taken = options.reserved_for(store)
            if taken:
                raise fields.mistake(key, 'a store cannot be called %s: that '
                                     'is %s' % (store, taken))
        if central and 'edge_access' in fields:
            raise fields.mistake('edge_access', 'site %s is the central one, '
                                 'and no edge' % name)
        if 'from_central' in fields and not cluster:
            raise fields.mistake('from_central', 'site %s has no cluster for '
                                 'the central Glance to use' % name)
        return model.Site(
            name, node.line, fields.text('description', '%s RBD store' % name
                                         if cluster else name),
            central, store, cluster,
            pool=_word(self._holder(fields, 'pool'), 'pool', 'images'),
            chunk_size=self._holder(fields, 'chunk_size').number(
                'chunk_size', None, 1, 1024),
            weight=fields.number('weight', None, -10**6, 10**6),
            workers=self._workers(fields),
            staging=self._folder_of(
                self._holder(fields, 'staging'), 'staging',
                os.path.join(self._paths.state, 'os_glance_staging_store')),
            cache_size=self._cache_size(fields, cluster),
            limits=self._limits(fields), operator=self._operator(fields),
            options=self._options(fields),
            edge_access=model.Access(_choice(
                fields if 'edge_access' in fields else self._top,
                'edge_access', [each.value for each in model.EDGE_ACCESS],
                model.Access.READ_ONLY.value)),
            at_central=self._login(
                fields, 'at_central', 'glance-%s' % name, not central),
            from_central=self._login(
                fields, 'from_central', 'glance-central',
                bool(cluster) and not central), path=self._path)

    def _login(self, fields: sitesfile.Fields, key: str, user: str,
               by_default: bool) -> model.Login | None:
        """Return the user of a Glance at the cluster of another site."""
        if key not in fields and not by_default:
            return None
        given = fields.fields(key, ('user', 'key'))
        return model.Login(_word(given, 'user', user),
                           self._secret(given, 'key'), given.line)

    @staticmethod
    def _name(fields: sitesfile.Fields, key: str) -> str:
        name = fields.required_text(key)
        try:
            folder.check_name(name)
        except folder.Mistake as exc:
            raise fields.mistake(key, str(exc))
        return name

    def _cluster(self, fields: sitesfile.Fields,
                 site: str) -> model.Cluster | None:
        if 'cluster' not in fields:
            return None
        given = fields.fields('cluster', _CLUSTER)
        name = self._name(given, 'name') if 'name' in given else site
        user = _word(self._holder(given, 'user'), 'user', 'glance')
        key = self._secret(given, 'key')
        extra_pools = _words(self._holder(given, 'extra_pools'),
                             'extra_pools')
        text, mon_host, settings = (
            self._read_conf(given) if 'conf' in given
            else (*self._fsid_and_mons(given), ()))
        fsid = cephconf.fsid_of(text)
        if fsid is None:
            raise given.mistake(
                'conf' if 'conf' in given else 'fsid',
                '%r is no fsid; "ceph fsid" at the site shows it' % text[:60])
        return model.Cluster(name, fsid, mon_host, user, key, settings,
                             extra_pools, line=given.line)

    @staticmethod
    def _fsid_and_mons(given: sitesfile.Fields) -> tuple[str, str]:
        given.require('fsid', ', or conf')
        given.require('mons')
        mons = given.texts('mons')
        if not mons or not all(map(cephconf.is_mon_host, mons)):
            raise given.mistake('mons', 'mons must be a list of addresses of '
                                'monitors')
        return given.required_text('fsid'), ','.join(mons)

    def _read_conf(self, given: sitesfile.Fields
                   ) -> tuple[str, str, tuple[tuple[str, str], ...]]:
        """Return fsid, mon_host and settings of a cluster's conf file."""
        for key in ('fsid', 'mons'):
            if key in given:
                raise given.mistake(key, '%s is in the conf file already; '
                                    'give either conf, or fsid and mons' % key)
        path = os.path.join(self._folder, given.required_text('conf'))
        try:
            sections = cephconf.read(path)
        except sitesfile.Mistake as exc:
            raise given.mistake('conf', str(exc))
        found = sections.get('global', {})
        for name in ('fsid', 'mon_host'):
            if not found.get(name):
                raise given.mistake('conf', '%s has no %s in [global]'
                                    % (path, name))
        if not cephconf.is_mon_host(found['mon_host']):
            raise given.mistake('conf', 'mon_host in %s is none' % path)
        return (found['fsid'], found['mon_host'],
                cephconf.settings(sections))

    def _secret(self, fields: sitesfile.Fields,
                key: str) -> model.Secret | None:
        """Return the Secret that the value of a key refers to, or None."""
        node = fields.node(key)
        if node is None:
            return None
        if isinstance(node, sitesfile.Scalar):
            raise fields.mistake(key, '%s must not stand here itself, but '
                                 'as {file: PATH} or {env: NAME}' % key)
        return self.reference(node, key)

    def reference(self, node: sitesfile.Node, key: str) -> model.Secret:
        """Return the Secret that a node refers to."""
        found = sitesfile.Fields(self._path, node, key,
                                 ('file', 'env', 'inline'))
        if len(found) != 1:
            raise sitesfile.Mistake(self._path, node.line, '%s must be one '
                                    'of {file: PATH} and {env: NAME}' % key)
        if 'inline' in found:
            if not self._inline:
                raise found.mistake(
                    'inline', 'secrets stand in files of their own; if this '
                    'one has to be here, say allow_inline_secrets: true and '
                    'keep the sites file from others')
            return model.Secret(self._path, node.line,
                                value=found.required_text('inline'))
        name = found.text('file', None)
        secret = model.Secret(
            self._path, node.line, env=found.text('env', None),
            file=name and os.path.join(self._folder, name))
        secret.check()
        return secret

    @staticmethod
    def _workers(fields: sitesfile.Fields) -> tuple[str, ...]:
        urls = tuple(url.rstrip('/') for url in fields.texts('workers'))
        for url in urls:
            fault = _url_fault(url)
            if fault:
                raise fields.mistake('workers', '%r %s; the URL of a worker '
                                     'is like http://10.0.0.11:9292'
                                     % (url[:80], fault))
        return urls

    def _cache_size(self, fields: sitesfile.Fields,
                    cluster: model.Cluster | None) -> int | None:
        if 'cache_size' in fields and cluster:
            raise fields.mistake('cache_size', 'a site with a cluster has no '
                                 'use for an image cache')
        size = self._holder(fields, 'cache_size').number(
            'cache_size', 10 << 30, 1 << 20)
        return None if cluster else size

    def _limits(self, fields: sitesfile.Fields) -> model.Limits:
        given = self._merged(fields, 'limits', model.Limits)
        return model.Limits(
            given.number('max_transfers', None),
            given.fraction('bandwidth_limit'),
            given.number('connect_timeout', None, most=3600),
            given.number('io_timeout', None, most=86400))

    def _operator(self, fields: sitesfile.Fields) -> model.Operator:
        given = self._merged(fields, 'operator', model.Operator)
        common = self._defaults.fields('operator', _keys(model.Operator))
        if 'api' in common:
            raise common.mistake('api', 'sites cannot have one GlanceAPI '
                                 'together: api is of a site')
        default = model.Operator()
        if 'api' in given:
            # That one has its own, and a StatefulSet changes no volume.
            default = model.Operator(replicas=None, storage_request=None)
        return model.Operator(
            api=_like(given, 'api', _LABEL, None),
            layout=_choice(given, 'layout', ['split', 'single'],
                           default.layout),
            replicas=given.number('replicas', default.replicas, most=32),
            storage_class=_like(given, 'storage_class', _LABEL, None),
            storage_request=_like(given, 'storage_request', _QUANTITY,
                                  default.storage_request),
            networks=_words(given, 'networks'),
            internal_address=_like(given, 'internal_address', _HOST, None),
            address_pool=_like(given, 'address_pool', _LABEL,
                               default.address_pool))

    def _options(self, fields: sitesfile.Fields) -> model.Options:
        """Return the options that the sites file gives to a site's Glance."""
        found: model.Options = {}
        for holder in (self._top, self._defaults, fields):
            node = holder.node('glance')
            if node is not None:
                found.update(options.read(self._path, node, self.reference))
        return found


def _keys(kind: type) -> tuple[str, ...]:
    """Return the keys of a mapping that becomes a dataclass."""
    return tuple(field.name for field in dataclasses.fields(kind))


def _word(fields: sitesfile.Fields, key: str, default: str) -> str:
    return _checked(fields, key, fields.text(key, default))


def _words(fields: sitesfile.Fields, key: str) -> tuple[str, ...]:
    return tuple(_checked(fields, key, word) for word in fields.texts(key))


def _checked(fields: sitesfile.Fields, key: str, word: str) -> str:
    if not _WORD.fullmatch(word):
        raise fields.mistake(key, '%s has characters that cannot stand there; '
                             'letters, digits, _, . and - can' % key)
    return word


def _choice(fields: sitesfile.Fields, key: str, values: list[str],
            default: str) -> str:
    text = fields.text(key, default)
    if text not in values:
        raise fields.mistake(key, '%r cannot be the %s%s; it is one of: '
                             '%s' % (text[:60], key, sitesfile.nearest(
                                 text, values), ', '.join(values)))
    return text


def _like(fields: sitesfile.Fields, key: str, form: re.Pattern[str],
          default: _Default) -> str | _Default:
    text = fields.text(key, default)
    if isinstance(text, str) and not form.fullmatch(text):
        raise fields.mistake(key, '%r cannot be the %s; it is %s'
                             % (text[:60], key, _FORMS[form]))
    return text


def _url_fault(url: str) -> str | None:
    """Return why a URL cannot be that of a worker, or None."""
    fault = worker_url.fault(url)
    if fault:
        return fault
    parts = urllib.parse.urlsplit(url)
    if not (_HOST.fullmatch(parts.hostname or '')
            and re.fullmatch('[A-Za-z0-9._/-]*', parts.path)):
        return 'has other characters than letters, digits, ., _, - and /'
    return None


def _check_together(path: str, sites: tuple[model.Site, ...],
                    line: int) -> None:
    """Raise Mistake if the sites of a deployment do not go together.

    :param line: to name where no site is to blame
    """
    central = [site for site in sites if site.central]
    if not central:
        raise sitesfile.Mistake(path, line, 'no site is the central one; '
                                'give one of them central: true')
    if len(central) > 1:
        raise sitesfile.Mistake(
            path, central[1].line, 'site %s is central, but so is %s (line '
            '%d); there can be one' % (central[1].name, central[0].name,
                                       central[0].line))
    _check_unique(path, sites)
    _check_logins(path, sites, central[0])


def _check_logins(path: str, sites: tuple[model.Site, ...],
                  central: model.Site) -> None:
    """Raise Mistake if one cephx user would need two kinds of rights."""
    at_central = {central.ceph.user: ('that of central itself',
                                      model.Access.OWNER)}
    login = central.at_central or central.from_central
    if login:
        raise sitesfile.Mistake(path, login.line, 'site %s is the central '
                                'one: at_central and from_central are for '
                                'the others' % central.name)
    for site in sites:
        login = site.from_central
        if login and login.user == site.ceph.user:
            raise sitesfile.Mistake(
                path, login.line, 'client.%s is the user of site %s itself: '
                'the central Glance needs another one there, which cannot '
                'reach the records of the site' % (login.user, site.name))
        login = site.at_central
        if login:
            whose, access = at_central.setdefault(
                login.user, ('that of site %s' % site.name,
                             site.edge_access))
            if access is not site.edge_access:
                raise sitesfile.Mistake(
                    path, login.line, 'site %s cannot have client.%s at '
                    'central: it is %s, which has other rights'
                    % (site.name, login.user, whose))


def _check_unique(path: str, sites: tuple[model.Site, ...]) -> None:
    """Raise Mistake if two sites share what is each one's own."""
    seen: dict[tuple[str, object], model.Site] = {}
    for site in sites:
        # oslo.config, and some file systems, do not tell case apart.
        owned: list[tuple[str, object, str]] = [
            ('name', site.name.lower(), 'the name %s' % site.name)]
        if site.store:
            cluster = site.ceph
            owned += [
                ('store', site.store.lower(), 'the store %s' % site.store),
                ('cluster', cluster.name.lower(),
                 'a cluster of the name %s' % cluster.name),
                ('pool', (cluster.fsid, site.pool), 'pool %s of the cluster '
                 'with fsid %s' % (site.pool, cluster.fsid))]
        owned += [('worker', url.lower(), 'the worker %s' % url)
                  for url in site.workers]
        for kind, key, what in owned:
            other = seen.get((kind, key))
            if other:
                raise sitesfile.Mistake(
                    path, site.line, 'site %s has %s, and so has site %s '
                    '(line %d)' % (site.name, what, other.name, other.line))
            seen[kind, key] = site
