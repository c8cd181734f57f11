// A real AT Protocol network on loopback: the reference PLC directory (in memory), the reference
// PDSes, and a control port for tests.
//
// usage: network.mjs --data DIR [--pds N] [--plc-doc modern|legacy]
//
// Prints one JSON line when everything listens: {plc, control, adminPassword, pds: [{url, did,
// handleDomain, up}]}. Runs until SIGTERM. What differs from a real deployment: servers listen on
// 127.0.0.1, handles are resolved without DNS, mails are kept for the tests instead of sent, and
// the PLC directory renders documents as asked. Repos, sequencer and firehose are as published.
//
// Control port: GET /mail, GET /xrpc/com.atproto.identity.resolveHandle?handle=,
// POST /pds/0/{stop,start,drop-ws}. The directory forgets everything with the process, so a PDS is
// restarted through the control port.
import fs from 'node:fs'
import http from 'node:http'
import net from 'node:net'
import path from 'node:path'
import { randomBytes } from 'node:crypto'
import { createRequire } from 'node:module'
import { parseArgs } from 'node:util'

const ADMIN_PASSWORD = 'interop-admin'
const CLOSING_MS = 8000

const { values: options } = parseArgs({
  options: {
    data: { type: 'string' },
    pds: { type: 'string', default: '2' },
    'plc-doc': { type: 'string', default: 'modern' },
  },
})
const dataRoot = path.resolve(options.data)
fs.mkdirSync(dataRoot, { recursive: true })

// Read by the servers' loggers while they are imported; stdout is for our one line.
process.env.LOG_ENABLED = 'true'
process.env.LOG_LEVEL = 'warn'
process.env.LOG_DESTINATION = path.join(dataRoot, 'pds.log')
const { PDS, envToCfg, envToSecrets } = await import('@atproto/pds')
const plcServer = createRequire(import.meta.url)('@did-plc/server')

const freePort = () =>
  new Promise((resolve, reject) => {
    const server = net.createServer().on('error', reject)
    server.listen(0, '127.0.0.1', () => {
      const { port } = server.address()
      server.close(() => resolve(port))
    })
  })

/** Both servers call app.listen(port), and subscriptions hang on that call: only add the address. */
function onLoopback(app) {
  const listen = app.listen.bind(app)
  app.listen = (port) => listen(port, '127.0.0.1')
}

// ---------- PLC directory

// The published server renders documents in the shape of before 2023: id "#atproto",
// EcdsaSecp256k1VerificationKey2019, uncompressed key. Today's public directory serves Multikey.
const plcPort = await freePort()
const plcUrl = `http://localhost:${plcPort}`
const plc = plcServer.PlcServer.create({
  db: new plcServer.MockDatabase(),
  port: plcPort,
  version: '0.0.1',
})
const DOCUMENT_PATH = /^\/(did:plc:[a-z2-7]{24})$/

function answerModernDocument(request, response) {
  const did = request.method === 'GET' && DOCUMENT_PATH.exec(decodeURIComponent(request.url))?.[1]
  const log = (did && plc.ctx.db.contents[did]) || []
  const operation = log.filter((entry) => !entry.nullified).at(-1)?.operation
  if (operation?.type !== 'plc_operation') return false // unknown, tombstone: the server's own answer
  const document = {
    '@context': [
      'https://www.w3.org/ns/did/v1',
      'https://w3id.org/security/multikey/v1',
      'https://w3id.org/security/suites/secp256k1-2019/v1',
    ],
    id: did,
    alsoKnownAs: operation.alsoKnownAs,
    verificationMethod: Object.entries(operation.verificationMethods).map(([name, key]) => ({
      id: `${did}#${name}`,
      type: 'Multikey',
      controller: did,
      publicKeyMultibase: key.replace('did:key:', ''),
    })),
    service: Object.entries(operation.services).map(([name, service]) => ({
      id: `#${name}`,
      type: service.type,
      serviceEndpoint: service.endpoint,
    })),
  }
  response.writeHead(200, { 'content-type': 'application/did+ld+json; charset=utf-8' })
  response.end(JSON.stringify(document))
  return true
}

if (options['plc-doc'] === 'legacy') {
  onLoopback(plc.app)
} else {
  plc.app.listen = (port) =>
    http
      .createServer((request, response) => {
        if (!answerModernDocument(request, response)) plc.app(request, response)
      })
      .listen(port, '127.0.0.1')
}
await plc.start()

// ---------- PDSes

const mails = []
const hosts = []

async function resolveHandle(handle) {
  for (const host of hosts) {
    const account = await host.server?.ctx.accountManager.getAccount(handle).catch(() => null)
    if (account) return account.did
  }
}

async function boot(host) {
  const server = PDS.fromEnv
    ? await PDS.fromEnv(host.environment)
    : await PDS.create(envToCfg(host.environment), envToSecrets(host.environment))
  onLoopback(server.app)
  server.ctx.idResolver.handle.resolve = resolveHandle
  const transporter = server.ctx.mailer.transporter
  const send = transporter.sendMail.bind(transporter)
  transporter.sendMail = async (mail) => {
    const token = /[A-Z2-7]{5}-[A-Z2-7]{5}/.exec(String(mail.html ?? mail.text ?? ''))?.[0]
    mails.push({ to: mail.to, subject: mail.subject, token: token ?? null })
    return send(mail)
  }
  const httpServer = await server.start()
  host.sockets = new Set()
  httpServer.on('upgrade', (_request, socket) => {
    host.sockets.add(socket)
    socket.on('close', () => host.sockets.delete(socket))
  })
  host.server = server
}

async function halt(host) {
  const server = host.server
  host.server = null
  for (const socket of host.sockets ?? []) socket.destroy()
  await server?.destroy()
}

for (let index = 0; index < Number(options.pds); index++) {
  const port = await freePort()
  const folder = path.join(dataRoot, `pds${index + 1}`)
  fs.mkdirSync(folder, { recursive: true })
  const did = `did:web:localhost%3A${port}`
  const handleDomain = `.pds${index + 1}.test`
  const host = {
    url: `http://localhost:${port}`,
    did,
    handleDomain,
    environment: {
      devMode: true,
      port,
      hostname: 'localhost',
      serviceDid: did,
      dataDirectory: folder,
      blobstoreDiskLocation: path.join(folder, 'blobs'),
      blobstoreDiskTmpLocation: path.join(folder, 'blobs-tmp'),
      didPlcUrl: plcUrl,
      serviceHandleDomains: [handleDomain],
      jwtSecret: randomBytes(16).toString('hex'),
      dpopSecret: randomBytes(32).toString('hex'),
      plcRotationKeyK256PrivateKeyHex: randomBytes(32).toString('hex'),
      adminPassword: ADMIN_PASSWORD,
      inviteRequired: false,
      disableSsrfProtection: true,
      acceptingImports: true,
      maxImportSize: 200 * 1024 * 1024,
      rateLimitsEnabled: false,
      crawlers: [],
    },
  }
  hosts.push(host)
  await boot(host)
}

// ---------- control port

const info = () => ({
  plc: plcUrl,
  control: controlUrl,
  adminPassword: ADMIN_PASSWORD,
  pds: hosts.map(({ url, did, handleDomain, server }) => ({ url, did, handleDomain, up: !!server })),
})

async function answerControl(request) {
  const url = new URL(request.url, controlUrl)
  if (url.pathname === '/mail') return [200, mails]
  if (url.pathname === '/xrpc/com.atproto.identity.resolveHandle') {
    const did = await resolveHandle(url.searchParams.get('handle'))
    return did
      ? [200, { did }]
      : [400, { error: 'HandleNotFound', message: 'Unable to resolve handle' }]
  }
  const [, index, verb] = /^\/pds\/(\d+)\/(stop|start|drop-ws)$/.exec(url.pathname) ?? []
  const host = hosts[index]
  if (request.method !== 'POST' || !host) return [404, { error: 'NotFound' }]
  if (verb === 'stop' && host.server) await halt(host)
  if (verb === 'start' && !host.server) await boot(host)
  if (verb === 'drop-ws') for (const socket of host.sockets) socket.destroy()
  return [200, info()]
}

const control = http.createServer(async (request, response) => {
  const [status, body] = await answerControl(request).catch((error) => [
    500,
    { error: 'InternalServerError', message: String(error?.stack ?? error) },
  ])
  response.writeHead(status, { 'content-type': 'application/json' })
  response.end(JSON.stringify(body))
})
const controlPort = await freePort()
const controlUrl = `http://localhost:${controlPort}`
await new Promise((resolve) => control.listen(controlPort, '127.0.0.1', resolve))
console.log(JSON.stringify(info()))

let closing = false
async function close() {
  if (closing) return
  closing = true
  setTimeout(() => process.exit(0), CLOSING_MS).unref()
  control.close()
  await Promise.allSettled(hosts.map(halt))
  await plc.destroy().catch(() => {})
  process.exit(0)
}
process.on('SIGTERM', close)
process.on('SIGINT', close)
